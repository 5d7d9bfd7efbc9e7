package registrytest

import (
	"io"
	"net"
	"time"
)

const (
	// packetSize is how much of a stream is read at once.
	packetSize = 32 << 10

	// packetsInFlight is how many packets may be under way in one direction of a connection: 6 MiB,
	// the largest receive window that Linux grants by default (tcp_rmem).
	packetsInFlight = 6 << 20 / packetSize
)

// packet is a part of a stream on its way.
type packet struct {
	arrives time.Time
	data    []byte
}

// distance delays the bytes of a connection, as a network does.
type distance struct {
	delay     time.Duration // until a byte arrives
	rate      int           // bytes a second; 0: any number
	connected time.Time     // nothing is sent before
}

// carry copies a stream like io.Copy over a distance. It closes from if to fails.
func (d distance) carry(to io.Writer, from net.Conn) {
	way := make(chan packet, packetsInFlight)
	go func() {
		defer close(way)
		free := d.connected // when the next byte can be sent
		for {
			data := make([]byte, packetSize)
			n, err := from.Read(data)
			if n > 0 {
				free = latest(time.Now(), free)
				if d.rate > 0 {
					free = free.Add(time.Duration(n) * time.Second / time.Duration(d.rate))
				}
				way <- packet{free.Add(d.delay), data[:n]}
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
