// Package parleyv1connect owns the clients and the server side of the remote
// calls of parleyv1. scripts/proto makes its code.
package parleyv1connect
