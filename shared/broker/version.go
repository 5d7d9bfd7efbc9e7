package broker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"
)

const (
	// minVersion is the first server version that keeps everything that is stored. 2.14.0 and
	// 2.14.1 treat a purge up to sequence 1, which purges nothing, as a purge of everything
	// (nats-server#4696). Before 2.14.4, batches store schedules and check expected sequences
	// wrongly (nats-server#8305, #8376).
	minVersion = "v2.14.4"
	// syncVersion is the first server that always syncs if it is set to. Before, a
	// compaction did not (nats-server#8475).
	syncVersion = "v2.15.2"
	// metaVersion is the key of the version of a stream's leader (ADR-44).
	metaVersion = "_nats.ver"
)

// release is a server's version as semver compares it. Servers leave out the v, and
// -fips is another build of a release, not something before it.
func release(version string) (string, bool) {
	v := "v" + strings.TrimPrefix(strings.TrimSuffix(version, "-fips"), "v")
	return v, semver.IsValid(v)
}

// checkVersion returns ErrTooOld for a version below minVersion, or one that cannot be parsed. It
// reports true if the server may lose acknowledged messages in a power cut.
func checkVersion(server, version string) (unsynced bool, err error) {
	v, ok := release(version)
	switch {
	case !ok:
		return false, fmt.Errorf("%w: the version of %s is unreadable: %q; expected nats-server %s or newer", ErrTooOld, server, version, minVersion[1:])
	case semver.Compare(v, minVersion) < 0:
		return false, fmt.Errorf("%w: %s runs nats-server %s, which loses plans and failures: upgrade it to %s or newer (to survive power cuts, %s or newer)",
			ErrTooOld, server, version, minVersion[1:], syncVersion[1:])
	}
	return semver.Compare(v, syncVersion) < 0, nil
}

// versions checks the servers of a broker.
type versions struct {
	log    *slog.Logger
	warned sync.Map // servers with their versions
}

// check checks the version of a server. Its name is unique; server is how messages refer
// to it.
func (v *versions) check(name, server, version string) error {
	unsynced, err := checkVersion(server, version)
	if !unsynced {
		return err
	}
	if _, warned := v.warned.LoadOrStore(name+" "+version, true); !warned {
		v.log.Warn("nats-server before "+syncVersion[1:]+" can lose acknowledged messages in a power cut, even with sync_interval: always",
			"server", server, "version", version)
	}
	return nil
}

// connected checks the server that the connection leads to now.
func (v *versions) connected(conn *nats.Conn) error {
	version, name, at := conn.ConnectedServerVersion(), conn.ConnectedServerName(), conn.ConnectedUrlRedacted()
	if version == "" {
		return fmt.Errorf("%w: the connection was lost", ErrUnreachable)
	}
	server := "server " + name
	if u, err := url.Parse(at); err == nil && u.Host != "" {
		server += " (" + u.Host + ")"
		if name == conn.ConnectedServerId() { // the URL does not name it
			server = "the server at " + u.Host
		}
	}
	return v.check(name, server, version)
}

// leader checks the server that leads the stream, which need not be the connected one.
func (v *versions) leader(info *jetstream.StreamInfo) error {
	version := info.Config.Metadata[metaVersion]
	if version == "" || info.Cluster == nil || info.Cluster.Leader == "" {
		return nil // it is the only server
	}
	return v.check(info.Cluster.Leader, "server "+info.Cluster.Leader, version)
}

// othersTimeout bounds the check of each server that is not connected. Servers may
// announce addresses that only they can reach.
const othersTimeout = 2 * time.Second

// others checks the servers in the configuration and those that the connected server has
// announced, each at every address of its host name. It skips a server that does not
// answer: that one is checked once it is connected, or leads the stream.
func (v *versions) others(ctx context.Context, conn *nats.Conn, user *url.Userinfo, opts []nats.Option) error {
	var group errgroup.Group
	for _, text := range conn.Servers() {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		u.User = user
		addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
		if err != nil {
			continue
		}
		for _, address := range addresses {
			group.Go(func() error { return v.other(conn, u, address, opts) })
		}
	}
	return group.Wait()
}

// other checks one server, unless it is the connected one.
func (v *versions) other(conn *nats.Conn, u *url.URL, address string, opts []nats.Option) error {
	opts = append(slices.Clone(opts), nats.Name(conn.Opts.Name+", to check the version"),
		nats.Timeout(othersTimeout), nats.SetCustomDialer(only(address)), nats.NoReconnect(), nats.IgnoreDiscoveredServers())
	probe, err := nats.Connect(u.String(), opts...)
	if err != nil {
		v.log.Debug("a server of the broker was not checked", "server", u.Host, "address", address, "error", err)
		return nil
	}
	defer probe.Close()
	if probe.ConnectedServerId() == conn.ConnectedServerId() {
		return nil
	}
	return v.connected(probe)
}

// only dials one address of a server's host name.
type only string

// Dial implements nats.CustomDialer.
func (o only) Dial(network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err != nil || host != string(o) {
		return nil, &net.AddrError{Err: "not the address to check", Addr: address}
	}
	return (&net.Dialer{Timeout: othersTimeout}).Dial(network, address)
}
