// Package interop holds programs that other people wrote against a running
// node. It is a module of its own, so that what they need is nothing that the
// node needs.
package interop
