package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

const (
	// socketFolder is in DATA_DIR. Only its owner may enter it: with any umask, no other user can
	// open the socket, even before its mode is set.
	socketFolder = "run"
	socketFile   = "broker.sock"
	// maxSocketPath is less than what the kernel accepts as the path of a socket: 107
	// bytes on Linux, 103 on macOS and the BSDs.
	maxSocketPath = 100
)

// errForeignSocket is returned for a socket that another user may have made.
var errForeignSocket = errors.New("owned by another user")

// socketPath returns a path of the socket in the folder that is short enough for the
// kernel. It is valid until release is called.
func socketPath(folder string) (path string, release func(), err error) {
	path = filepath.Join(folder, socketFile)
	if len(path) <= maxSocketPath || runtime.GOOS != "linux" {
		return path, func() {}, nil
	}
	f, err := os.Open(folder)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), socketFile), func() { _ = f.Close() }, nil
}

// socket lets other processes of the same user into the embedded broker.
type socket struct {
	listener net.Listener
	release  func()
}

// listenSocket creates the socket of a DATA_DIR whose lock this process has: a socket
// that is there already was left by a process that was killed.
func listenSocket(dataDir string) (*socket, error) {
	folder := filepath.Join(dataDir, socketFolder)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := os.Chmod(folder, 0o700); err != nil {
		return nil, err
	}
	path, release, err := socketPath(folder)
	if err != nil {
		return nil, err
	}
	if err = os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		release()
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		release()
		return nil, err
	}
	return &socket{l, release}, nil
}

// serve connects the clients of the socket with the broker, until close.
func (s *socket) serve(to *server.Server, log *slog.Logger) {
	for {
		client, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Warn("planner commands cannot reach this process", "socket", s.listener.Addr().String(), "error", err)
			return
		}
		go func() {
			if inside, err := to.InProcessConn(); err != nil {
				_ = client.Close()
			} else {
				join(client, inside)
			}
		}()
	}
}

// join copies in both directions until one side closes.
func join(a, b net.Conn) {
	var both errgroup.Group
	one := func(to, from net.Conn) func() error {
		return func() error {
			_, err := io.Copy(to, from)
			_, _ = a.Close(), b.Close()
			return err
		}
	}
	both.Go(one(a, b))
	both.Go(one(b, a))
	_ = both.Wait()
}

func (s *socket) close() {
	_ = s.listener.Close()
	s.release()
}

// dialer connects to the broker that another process has embedded. It implements
// nats.CustomDialer; the address that nats.go asks for has no meaning.
type dialer struct{ dataDir string }

// Dial implements nats.CustomDialer.
func (d dialer) Dial(string, string) (net.Conn, error) {
	folder := filepath.Join(d.dataDir, socketFolder)
	info, err := os.Lstat(folder)
	if err != nil {
		return nil, err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() != 0 && int(owner.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s is %w", folder, errForeignSocket)
	}
	path, release, err := socketPath(folder)
	if err != nil {
		return nil, err
	}
	defer release()
	network := net.Dialer{Timeout: dialTimeout}
	return network.DialContext(context.Background(), "unix", path)
}

// join connects to the broker that another process has embedded. If that process has no
// socket, inUse is returned.
func (b *Broker) join(ctx context.Context, c Config, o Options, inUse error) error {
	opts := append(options(o), nats.SetCustomDialer(dialer{c.DataDir}))
	var err error
	// An IP address keeps nats.go from looking up a name.
	if b.Conn, err = nats.Connect("nats://127.0.0.1", opts...); err != nil {
		o.Log.Debug("the process that uses DATA_DIR cannot be reached", "error", err)
		return inUse
	}
	return b.prepare(ctx)
}
