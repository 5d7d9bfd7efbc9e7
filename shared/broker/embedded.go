package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// The embedded broker holds what one machine's runs need: a message stays
	// below 512 KiB, and a plan of 100,000 entries takes some 30 MB.
	embeddedMemory = 64 << 20
	embeddedStore  = 64 << 30
	// embeddedReady bounds the start, during which all of the store is read.
	embeddedReady = time.Minute

	lockFile = "lock"
)

// embedded is nats-server in this process. It listens on no port.
type embedded struct {
	server *server.Server
	lock   *os.File
	socket *socket // nil: no other process can use it
}

// Kept reports whether the folder holds the store of an embedded broker.
func Kept(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, lockFile))
	return err == nil
}

// EmbeddedOptions returns the options of the embedded broker in a folder. The servers of the
// chart have the same ones, which the chart's tests check.
func EmbeddedOptions(dir string) *server.Options {
	return &server.Options{
		ServerName:             "embedded",
		DontListen:             true,
		NoSigs:                 true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               dir,
		JetStreamMaxMemory:     embeddedMemory,
		JetStreamMaxStore:      embeddedStore,
		// A power cut must not lose an acknowledged message.
		SyncAlways: true,
	}
}

func startEmbedded(dir string, o Options) (*embedded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFolder, err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	e := &embedded{lock: lock}
	if o.Share {
		if e.socket, err = listenSocket(dir); err != nil {
			o.Log.Warn("other planner commands cannot use DATA_DIR while this one runs: no socket", "DATA_DIR", dir, "error", err)
		}
	}
	s, err := server.NewServer(EmbeddedOptions(dir))
	e.server = s
	if err != nil {
		e.stop()
		return nil, fmt.Errorf("%w: the embedded broker in DATA_DIR=%s: %w", ErrUnreachable, dir, err)
	}
	var log fatal
	s.SetLogger(&log, false, false)
	// Start returns early if JetStream cannot start, and the server is then never ready.
	s.Start()
	if log.text != "" || !s.ReadyForConnections(embeddedReady) {
		e.stop()
		return nil, fmt.Errorf("%w: the embedded broker in DATA_DIR=%s does not start: is the folder writable, and is there space? %s", ErrUnreachable, dir, log.text)
	}
	if e.socket != nil {
		go e.socket.serve(s, o.Log)
	}
	return e, nil
}

// fatal is the server's log. It keeps the reason why the server does not start, and drops
// everything else.
type fatal struct{ text string }

func (f *fatal) Fatalf(format string, v ...any) { f.text = fmt.Sprintf(format, v...) }
func (f *fatal) Noticef(string, ...any)         {}
func (f *fatal) Warnf(string, ...any)           {}
func (f *fatal) Errorf(string, ...any)          {}
func (f *fatal) Debugf(string, ...any)          {}
func (f *fatal) Tracef(string, ...any)          {}

func (e *embedded) stop() {
	if e.socket != nil {
		e.socket.close()
	}
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	unlockFolder(e.lock)
}

// lockFolder locks the store, because two nats-servers would open it at once. The kernel
// releases the lock when the process ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFolder, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_ = f.Truncate(0)
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
		return f, nil
	}
	defer f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("DATA_DIR=%s is %w by process %s: wait for it, or set another DATA_DIR", dir, ErrInUse, strings.TrimSpace(string(pid)))
	}
	return nil, fmt.Errorf("%w: locking DATA_DIR=%s: %w", ErrUnreachable, dir, err)
}

// unlockFolder releases the lock. Closing the file is not enough: a child that this process is starting
// has the file, too, until it executes its program.
func unlockFolder(lock *os.File) {
	_ = syscall.Flock(int(lock.Fd()), syscall.LOCK_UN)
	_ = lock.Close()
}
