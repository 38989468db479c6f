// Package p2papi owns the messages of the peer service that Teranode's clients
// call. scripts/proto makes its code.
package p2papi
