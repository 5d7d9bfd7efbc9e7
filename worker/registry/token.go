package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/worker/containers"
)

const (
	// aToken is what a token server is asked for, in the words of a pageError.
	aToken = "a token"

	// clientID is what we call ourselves to OAuth2 token servers.
	clientID = "skopeo-worker"

	// defaultLife is how long a token lives that does not say (the Docker registry's
	// token authentication specification).
	defaultLife = time.Minute

	// maxLife is how long a token is used at most, whatever it says: credentials that
	// were taken back are to end some day.
	maxLife = 24 * time.Hour

	// maxLead is how long before its end a token is renewed, at most: a request may wait
	// for its turn for some seconds before it is sent.
	maxLead = 10 * time.Second
)

// errRealm is a challenge that names no token server that may be asked.
var errRealm = errors.New("the registry names no usable token server")

// token is a bearer token.
type token struct {
	value string
	renew time.Time // when to ask for another one
}

// tokenServer is where a registry sends for tokens.
type tokenServer struct {
	client  http.Client
	realm   *url.URL
	service string
	of      string // the registry's host
	now     func() time.Time
}

// newTokenServer reads a challenge. Link-local addresses are where clouds hand out what
// belongs to this machine: no registry has its tokens there.
func newTokenServer(network http.RoundTripper, of string, asked challenge, now func() time.Time) (*tokenServer, error) {
	realm, err := url.Parse(asked.Parameters["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return nil, fmt.Errorf("%w: %w: %q", ErrUnexpected, errRealm, asked.Parameters["realm"])
	}
	follow := func(request *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("%w: more than %d redirects", ErrUnexpected, maxRedirects)
		}
		return allowed(request.URL)
	}
	if err := allowed(realm); err != nil {
		return nil, err
	}
	return &tokenServer{
		client: http.Client{Transport: network, CheckRedirect: follow},
		realm:  realm, service: asked.Parameters["service"], of: of, now: now,
	}, nil
}

// maxRedirects is net/http's own, which a CheckRedirect of ours replaces.
const maxRedirects = 10

func allowed(target *url.URL) error {
	if address, err := netip.ParseAddr(target.Hostname()); err == nil && address.Unmap().IsLinkLocalUnicast() {
		return fmt.Errorf("%w: %w: %s is link-local", ErrUnexpected, errRealm, target.Host)
	}
	return nil
}

// token asks for a token of these scopes, which have spaces between them.
func (s *tokenServer) token(ctx context.Context, known containers.Credential, scope string) (token, error) {
	asked := s.now()
	plain, err := s.plain(ctx, known, scope)
	if err != nil {
		return token{}, fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
	if known.IdentityToken == "" {
		body, err := s.send(plain, known)
		return s.read(body, err, asked)
	}
	exchange, err := s.exchange(ctx, known, scope)
	if err != nil {
		return token{}, fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
	body, err := s.send(exchange, known)
	if refused := (*failure)(nil); errors.As(err, &refused) && refused.status == http.StatusNotFound {
		body, err = s.send(plain, known) // not every token server has the OAuth2 way
	}
	return s.read(body, err, asked)
}

// plain is the way of every token server.
func (s *tokenServer) plain(ctx context.Context, known containers.Credential, scope string) (*http.Request, error) {
	target := *s.realm
	query := target.Query()
	if s.service != "" {
		query.Set("service", s.service)
	}
	for one := range strings.FieldsSeq(scope) {
		query.Add("scope", one)
	}
	if known.Username != "" {
		query.Set("account", known.Username)
	}
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err == nil && known.Username != "" && known.Password != "" {
		request.SetBasicAuth(known.Username, known.Password)
	}
	return request, err
}

// exchange gives an identity token for a token, the OAuth2 way.
func (s *tokenServer) exchange(ctx context.Context, known containers.Credential, scope string) (*http.Request, error) {
	form := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {known.IdentityToken},
		"service": {s.service}, "scope": {scope}, "client_id": {clientID},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.realm.String(), strings.NewReader(form.Encode()))
	if err == nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return request, err
}

// send returns the body of a success.
func (s *tokenServer) send(request *http.Request, known containers.Credential) ([]byte, error) {
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxErrorSize))
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		status := response.StatusCode
		if status == http.StatusBadRequest && !known.Anonymous() {
			status = http.StatusUnauthorized // in the words of OAuth2
		}
		return nil, &failure{status: status, cause: s.named(refusal(status, diagnose(body), login{known, presented}))}
	}
	return body, nil
}

// read takes the token out of an answer.
func (s *tokenServer) read(body []byte, err error, asked time.Time) (token, error) {
	if refused := (*failure)(nil); errors.As(err, &refused) {
		return token{}, handshakeFailure(refused.status, refused.cause)
	}
	if err != nil {
		return token{}, err
	}
	var found struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		// Some write a text.
		ExpiresIn json.RawMessage `json:"expires_in"`
	}
	err = json.Unmarshal(bytes.TrimSpace(body), &found)
	if found.Token == "" {
		found.Token = found.AccessToken
	}
	if err != nil || found.Token == "" {
		return token{}, s.named(&pageError{http.StatusOK, cmp.Or(notJSON(body), anotherKind), aToken})
	}
	life := lifeOf(found.ExpiresIn)
	return token{value: found.Token, renew: asked.Add(life - min(life/4, maxLead))}, nil
}

// lifeOf reads how many seconds a token lives.
func lifeOf(expiresIn json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(expiresIn), `"`), 64)
	if err != nil || seconds <= 0 {
		return defaultLife
	}
	return time.Duration(min(seconds, maxLife.Seconds()) * float64(time.Second))
}

// named says who answered, where that is another host than the registry.
func (s *tokenServer) named(err error) error {
	if s.realm.Host == s.of {
		return err
	}
	return fmt.Errorf("token server %s: %w", s.realm.Host, err)
}
