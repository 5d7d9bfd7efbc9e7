package brokertest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
)

// Alien publishes a message, as any other client of the server can. Neither the header nor the subject need
// be valid. Alien returns when a stream has stored the message.
func (s *Server) Alien(t testing.TB, subject, header string, data []byte) {
	t.Helper()
	server, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", server.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const inbox = "_INBOX.alien"
	publish := fmt.Sprintf("PUB %s %s %d\r\n%s\r\n", subject, inbox, len(data), data)
	if header != "" {
		publish = fmt.Sprintf("HPUB %s %s %d %d\r\n%s%s\r\n", subject, inbox, len(header), len(header)+len(data), header, data)
	}
	if _, err := io.WriteString(conn, `CONNECT {"headers":true,"protocol":1}`+"\r\nSUB "+inbox+" 1\r\n"+publish); err != nil {
		t.Fatal(err)
	}
	answers := textproto.NewReader(bufio.NewReader(conn))
	for stored := false; !stored; {
		line, err := answers.ReadLine()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(line, "MSG "+inbox) {
			continue
		}
		if line, err = answers.ReadLine(); err != nil || !strings.Contains(line, `"seq":`) {
			t.Fatalf("no stream has stored %q: %s %v", subject, line, err)
		}
		stored = true
	}
}
