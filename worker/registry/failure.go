package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// errSlow is the cause of a request's end when requestTimeout has passed.
var errSlow = fmt.Errorf("no complete answer within %s: %w", requestTimeout, context.DeadlineExceeded)

// diagnosis is one error in the body the OCI distribution specification
// defines for failed requests.
type diagnosis struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refusal explains an answer that is not a success.
func refusal(status int, found diagnosis) error {
	sentinel := sentinelOf(status, found.Code)
	text := found.Message
	if text == "" {
		text = strings.ToLower(strings.ReplaceAll(found.Code, "_", " "))
	}
	if errors.Is(sentinel, ErrUnauthorized) {
		// Docker Hub and quay.io say the same of a repository that does not exist.
		text = strings.TrimPrefix(text+", ", ", ") + "credentials are missing, or there is no such repository"
	}
	if text == "" || strings.EqualFold(text, sentinel.Error()) {
		return sentinel
	}
	return fmt.Errorf("%w: %s", sentinel, text)
}

// errNoRepository is the ErrNotFound of a repository as a whole.
var errNoRepository = fmt.Errorf("%w", ErrNotFound)

func sentinelOf(status int, code string) error {
	switch code {
	case "TOOMANYREQUESTS":
		return ErrLimited
	case "NAME_UNKNOWN":
		return errNoRepository
	case "MANIFEST_UNKNOWN":
		return ErrNotFound
	}
	switch {
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusUnauthorized:
		return ErrUnauthorized
	case status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusTooManyRequests:
		return ErrLimited
	case status == http.StatusRequestTimeout, status >= http.StatusInternalServerError:
		return ErrUnavailable
	default:
		return ErrRejected
	}
}

// diagnose finds the registry's own words in the body of a failed request:
// the first error of the JSON that the specification asks for, the title of an
// HTML page, or the text itself.
func diagnose(body []byte) diagnosis {
	var answer struct {
		Errors []diagnosis `json:"errors"`
		// Token servers and proxies use forms of their own.
		Details string `json:"details"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) == nil {
		if len(answer.Errors) > 0 {
			first := answer.Errors[0]
			return diagnosis{Code: first.Code, Message: plainText(first.Message)}
		}
		return diagnosis{Message: plainText(strings.TrimSpace(answer.Details + " " + answer.Message))}
	}
	return diagnosis{Message: plainText(string(body))}
}

var (
	title  = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
	hidden = regexp.MustCompile(`(?is)<(?:script|style)\b.*?</(?:script|style)>|<!--.*?-->`)
	tag    = regexp.MustCompile(`(?s)<[a-zA-Z/!][^>]*>`)
)

// plainText is a page's title, or its text without markup.
func plainText(page string) string {
	if found := title.FindStringSubmatch(page); found != nil {
		page = found[1]
	}
	page = tag.ReplaceAllString(hidden.ReplaceAllString(page, " "), " ")
	return strings.Join(strings.Fields(html.UnescapeString(page)), " ")
}

// trouble explains why there was no answer from host; status is that of a
// token server's refusal.
func trouble(ctx context.Context, host string, err error) (status int, explained error) {
	if errors.Is(context.Cause(ctx), errSlow) {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, errSlow)
	}
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused.StatusCode, tokenRefusal(host, refused)
	}
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err // the rest is the URL, which the caller names better
	}
	var untrusted *tls.CertificateVerificationError
	var broken net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrPlainHTTP), errors.Is(err, ErrCredentials):
		return 0, err
	case errors.Is(err, http.ErrSchemeMismatch):
		return 0, plainHTTP(host)
	case errors.As(err, &untrusted):
		return 0, fmt.Errorf("%w: %w; name its CA in SSL_CERT_FILE, or add %s to INSECURE_REGISTRIES",
			ErrCertificate, untrusted.Err, host)
	case errors.As(err, &broken), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return 0, fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
}

// tokenRefusal explains a failed handshake, which another host may have
// answered than the registry.
func tokenRefusal(host string, refused *transport.Error) error {
	var found diagnosis
	if len(refused.Errors) > 0 {
		first := refused.Errors[0]
		found = diagnosis{Code: string(first.Code), Message: plainText(first.Message)}
	}
	err := refusal(refused.StatusCode, found)
	if refused.Request != nil && refused.Request.URL.Host != host {
		return fmt.Errorf("token server %s: %w", refused.Request.URL.Host, err)
	}
	return err
}
