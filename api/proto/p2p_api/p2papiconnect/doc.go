// Package p2papiconnect owns the client and the server side of Teranode's peer
// service. scripts/proto makes its code.
package p2papiconnect
