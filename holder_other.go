//go:build !linux

package parley

import "net"

// PortHolder is known on Linux only: here always "".
func PortHolder(int) string { return "" }

func socketHolder(net.Conn) string { return "" }
