package registry

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/worker/containers"
)

// certificatesFor is how long the certificates of a host are taken as they are.
const certificatesFor = 5 * time.Second

// party is the registry that a request is about, in the request's context: where it is
// sent may be another host, of its tokens or its blobs.
type party struct {
	host     string // that is asked
	name     string // under which its certificates are kept
	insecure bool
}

type partyKey struct{}

// with puts the registry into the context of requests about it.
func (l location) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, partyKey{}, party{l.registry.RegistryStr(), l.named, l.insecure})
}

// trust is which hosts need not have TLS, or a certificate that can be verified: those
// of INSECURE_REGISTRIES, and those of registries.conf.
type trust struct{ named hostSet }

// of reports whether that holds for a repository, "quay.io/osism/osism", or for a host.
func (t trust) of(host, repository string) (bool, error) {
	if t.named.has(host) {
		return true, nil
	}
	settings, err := containers.SettingsOf(repository)
	return settings.Insecure, err
}

// allows reports whether a request may be sent in the clear, or to who knows whom.
func (t trust) allows(request *http.Request) (bool, error) {
	host := request.URL.Host
	if about, ok := request.Context().Value(partyKey{}).(party); ok && about.host == host {
		return about.insecure, nil
	}
	return t.of(host, host)
}

// byHost chooses the TLS settings by the host a request goes to, so that an
// insecure registry does not weaken the others, redirects included. The certificates of
// a registry also hold for where it sends us, as for skopeo.
type byHost struct {
	trust
	plain *http.Transport // without any of that
	now   func() time.Time

	mu   sync.Mutex
	kept map[settings]*secured
}

// settings are what a connection depends on.
type settings struct {
	host, registry string
	insecure       bool
}

// secured is a transport with certificates, and when they were looked at.
type secured struct {
	*http.Transport
	certificates containers.Certificates
	at           time.Time
}

func (t *byHost) RoundTrip(request *http.Request) (*http.Response, error) {
	insecure, err := t.allows(request)
	if err == nil {
		about, _ := request.Context().Value(partyKey{}).(party)
		var chosen *http.Transport
		if chosen, err = t.transport(settings{request.URL.Host, about.name, insecure}); err == nil {
			return chosen.RoundTrip(request)
		}
	}
	if request.Body != nil {
		_ = request.Body.Close()
	}
	return nil, err
}

// transport returns the transport for settings, with the certificates of now.
func (t *byHost) transport(s settings) (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.kept[s]
	if kept != nil && t.now().Sub(kept.at) < certificatesFor {
		return kept.Transport, nil
	}
	found, err := containers.CertificatesOf(s.host)
	if err == nil && found == (containers.Certificates{}) && s.registry != "" {
		found, err = containers.CertificatesOf(s.registry)
	}
	if err != nil {
		return nil, err
	}
	if kept != nil && kept.certificates == found {
		kept.at = t.now()
		return kept.Transport, nil
	}
	fresh := t.plain
	if s.insecure || found != (containers.Certificates{}) {
		fresh = t.plain.Clone()
		fresh.TLSClientConfig = &tls.Config{InsecureSkipVerify: s.insecure}
		if err := found.AddTo(fresh.TLSClientConfig); err != nil {
			return nil, err
		}
	}
	if kept != nil && kept.Transport != t.plain {
		kept.CloseIdleConnections()
	}
	if len(t.kept) >= maxSessions {
		clear(t.kept) // hosts of blobs may be of any number
	}
	t.kept[s] = &secured{fresh, found, t.now()}
	return fresh, nil
}
