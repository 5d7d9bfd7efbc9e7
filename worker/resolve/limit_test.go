package resolve_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

var pages = registrytest.Kinds(registrytest.KindBulkList)

func newOnline(t *testing.T, quay ...registrytest.Option) (*resolve.Upstream, *registrytest.Internet) {
	t.Helper()
	internet := registrytest.NewInternet(t, quay, nil)
	client := registry.NewClient(registry.Options{Transport: internet.Transport})
	return &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client})}, internet
}

// TestLimitEndsTheListing: if a source lists the newest tags first, the listing ends at the limit;
// signatures, which are newer than their images, have been listed by then. Other sources are listed
// as a whole, and the tags with the highest versions are the newest.
func TestLimitEndsTheListing(t *testing.T) {
	o, internet := newOnline(t)
	tags := registrytest.Numbered("v1.%05d", 20_000)
	require.NoError(t, internet.Quay.AddSynthetic("osism/huge", registrytest.Synthetic{Tags: tags}))
	wanted := message.Repository{Source: reference.MustRepository("quay.io/osism/huge"), Selection: &selection.Selection{Include: []string{".*5$"}, Limit: 12}}
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Len(t, found.Images, 12)
	require.Equal(t, "v1.19995", found.Images[0].Tag.String())
	require.Equal(t, 2, internet.Quay.Count(pages), "ten on each page")
	require.Zero(t, internet.Quay.Count(heads))

	internet.Quay.ResetRequests()
	wanted = message.Repository{Source: reference.MustRepository("quay.io/" + repository), Selection: &selection.Selection{Limit: 1}}
	push(t, internet.Quay, "1", "2")
	digest, err := internet.Quay.Digest(repository, "2")
	require.NoError(t, err)
	_, err = internet.Quay.PushSignature(repository, digest)
	require.NoError(t, err)
	found, err = o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []string{"2", registrytest.SignatureTag(digest)}, tagsOf(found.Images))

	plain, r, wanted := newResolver(t, registrytest.WithTagPage(2))
	wanted.Selection = &selection.Selection{Limit: 2}
	push(t, r, "1.10", "1.9", "latest")
	found, err = plain.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []string{"1.10", "1.9"}, tagsOf(found.Images))
	require.Equal(t, 2, r.Count(lists))
	require.Equal(t, 2, r.Count(heads), "only of what is picked")
}

// TestLimitedInTheMiddle: a listing that ends with a 429 is an error, and its tags are not used.
func TestLimitedInTheMiddle(t *testing.T) {
	o, internet := newOnline(t, registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 2}))
	push(t, internet.Quay, "1", "2", "3")
	defer internet.Quay.Inject(registrytest.Fault{Match: registrytest.All(pages, registrytest.Page(2)), Status: http.StatusTooManyRequests})()
	_, err := o.Resolve(t.Context(), message.Repository{Source: reference.MustRepository("quay.io/" + repository)}, resolve.Known{})
	require.ErrorIs(t, err, registry.ErrLimited)
	require.Zero(t, internet.Quay.Count(lists))
}
