package registrytest

import (
	"io"
	"net"
	"time"
)

const (
	// packetSize is how much of a stream is read at once.
	packetSize = 32 << 10

	// packetsInFlight bounds what is on its way in one direction of a connection: 6 MiB, the
	// largest receive window that Linux grants by default (tcp_rmem).
	packetsInFlight = 6 << 20 / packetSize
)

// packet is a part of a stream on its way.
type packet struct {
	arrives time.Time
	data    []byte
}

// carry copies a stream like io.Copy, but every byte arrives later by the delay, and is sent
// at the start or after it. It closes from if to fails.
func carry(to io.Writer, from net.Conn, delay time.Duration, start time.Time) {
	way := make(chan packet, packetsInFlight)
	go func() {
		defer close(way)
		for {
			data := make([]byte, packetSize)
			n, err := from.Read(data)
			if n > 0 {
				way <- packet{latest(time.Now(), start).Add(delay), data[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.arrives))
		if _, err := to.Write(p.data); err != nil {
			_ = from.Close()
			for range way { // let the reader end
			}
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
