// Package sidecarnode owns an example: a chain whose program is written in
// Node.js. Its test runs it on several nodes.
package sidecarnode
