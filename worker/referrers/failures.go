package referrers

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/osism/skopeo-worker/worker/registry"
)

// Failures are the errors about single manifests, each of which stops no other.
type Failures []error

// ofOne are answers about the manifest that was asked for. Being limited, or without an
// answer, is about the registry.
var ofOne = []error{
	registry.ErrNotFound, registry.ErrDenied, registry.ErrRejected, registry.ErrDigestMismatch, registry.ErrBadManifest,
	registry.ErrTooLarge, registry.ErrTooMany, registry.ErrPage, registry.ErrUnexpected, ErrOccupied, ErrTooMany,
}

// Add keeps an error, and is false for one that is about more than one manifest.
func (f *Failures) Add(err error) bool {
	asked := (*registry.Error)(nil)
	broken := errors.As(err, &asked) && asked.Status >= http.StatusInternalServerError
	if !broken && !slices.ContainsFunc(ofOne, func(one error) bool { return errors.Is(err, one) }) {
		return false
	}
	*f = append(*f, err)
	return true
}

// Err is nil without a failure, and otherwise the first of them, or the first that may
// pass, with the number of the others.
func (f Failures) Err() error {
	if len(f) == 0 {
		return nil
	}
	shown := max(0, slices.IndexFunc(f, func(err error) bool {
		return errors.Is(err, registry.ErrUnavailable) || errors.Is(err, registry.ErrPage)
	}))
	if len(f) == 1 {
		return f[0]
	}
	return fmt.Errorf("%w (and %d more)", f[shown], len(f)-1)
}
