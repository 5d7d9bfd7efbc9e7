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
	// aToken names the answer of a token server in a pageError.
	aToken = "a token"

	// clientID identifies this program to OAuth2 token servers.
	clientID = "skopeo-worker"

	// defaultLife is the lifetime of a token without expires_in (Docker registry token
	// authentication specification).
	defaultLife = time.Minute

	// maxLife is the longest time for which a token is used, so that revoked credentials
	// stop working at some time.
	maxLife = 24 * time.Hour

	// maxLead is the longest time before its end at which a token is renewed: a request may
	// wait for some seconds before it is sent.
	maxLead = 10 * time.Second
)

// errRealm is returned for a challenge without a token server that may be used.
var errRealm = errors.New("the registry names no usable token server")

// token is a bearer token.
type token struct {
	value string
	renew time.Time // when to request another one
}

// tokenServer issues the tokens of a registry.
type tokenServer struct {
	client  http.Client
	realm   *url.URL
	service string
	of      string // the registry's host
	now     func() time.Time
}

// newTokenServer returns the token server of a challenge. It refuses link-local addresses:
// clouds serve this machine's own credentials there, and no registry has its token server
// there.
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

func allowed(target *url.URL) error {
	if address, err := netip.ParseAddr(target.Hostname()); err == nil && address.Unmap().IsLinkLocalUnicast() {
		return fmt.Errorf("%w: %w: %s is link-local", ErrUnexpected, errRealm, target.Host)
	}
	return nil
}

// token requests a token for these scopes, which are separated by spaces.
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
	if statusOf(err) == http.StatusNotFound {
		body, err = s.send(plain, known) // not all token servers support OAuth2
	}
	return s.read(body, err, asked)
}

// plain returns a request that all token servers support.
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

// exchange returns an OAuth2 request that exchanges an identity token for a bearer token.
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

// send sends a request and returns the body of the answer.
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
			status = http.StatusUnauthorized // OAuth2 answers 400 to wrong credentials
		}
		return nil, &failure{status: status, cause: s.named(refusal(status, diagnose(body), login{known, presented}))}
	}
	return body, nil
}

// read parses the token in an answer.
func (s *tokenServer) read(body []byte, err error, asked time.Time) (token, error) {
	if refused, ok := errors.AsType[*failure](err); ok {
		return token{}, handshakeFailure(refused.status, refused.cause)
	}
	if err != nil {
		return token{}, err
	}
	var found struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		// Some servers send a string.
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

// lifeOf returns the lifetime of a token, whose expires_in is a number of seconds or a string
// with one.
func lifeOf(expiresIn json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(expiresIn), `"`), 64)
	if err != nil || seconds <= 0 {
		return defaultLife
	}
	return time.Duration(min(seconds, maxLife.Seconds()) * float64(time.Second))
}

// named adds the token server's host to an error, unless it is the registry's.
func (s *tokenServer) named(err error) error {
	if s.realm.Host == s.of {
		return err
	}
	return fmt.Errorf("token server %s: %w", s.realm.Host, err)
}
