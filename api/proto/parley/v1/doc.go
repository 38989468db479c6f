// Package parleyv1 owns the messages of the remote calls. scripts/proto makes
// its code from the .proto files beside it.
package parleyv1
