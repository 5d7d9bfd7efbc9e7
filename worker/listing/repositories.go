package listing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Repositories is a registry's listing of a namespace.
type Repositories struct {
	Found []reference.Repository // sorted, without duplicates
	// Invalid are names that no repository can have, as the registry sent them.
	Invalid []string
}

// ErrNoNamespace is returned for a namespace that the registry cannot have.
var ErrNoNamespace = errors.New("there is no such namespace")

// Repositories lists the repositories of a namespace to the end. It uses the API of Quay, Docker
// Hub or Harbor, and _catalog of other registries, from which it selects the repositories in the
// namespace. Repositories that the login may not see are missing. The error is ErrNoNamespace, or
// wraps a *registry.Error.
func (l *Listers) Repositories(ctx context.Context, n reference.Namespace) (Repositories, error) {
	var names iter.Seq2[string, error]
	switch host := n.Registry(); {
	case host == reference.DockerHub, l.quayHosts.Has(host):
		if n.Path() == "" || strings.Contains(n.Path(), "/") {
			return Repositories{}, fmt.Errorf("%w: %s; write %s/NAMESPACE/*", ErrNoNamespace, n, host)
		}
		api := quayNamespace
		if host == reference.DockerHub {
			api = hubNamespace
		}
		names = api.names(ctx, l.oci.registry, n)
	case l.harborHosts.Has(host):
		if n.Path() == "" {
			return Repositories{}, fmt.Errorf("%w: %s; write %s/PROJECT/*", ErrNoNamespace, n, host)
		}
		names = harborProject.names(ctx, l.oci.registry, n)
	default:
		names = l.oci.registry.Catalog(ctx, n.Address())
	}
	found, invalid := map[reference.Repository]bool{}, map[string]bool{}
	for name, err := range names {
		if err != nil {
			return Repositories{}, err
		}
		r, err := n.Repository(name)
		switch {
		case err == nil:
			found[r] = true
		case n.Path() == "" || strings.HasPrefix(name, n.Path()+"/"):
			invalid[name] = true
		}
	}
	all := slices.SortedFunc(maps.Keys(found), func(a, b reference.Repository) int { return strings.Compare(a.String(), b.String()) })
	return Repositories{all, slices.Sorted(maps.Keys(invalid))}, nil
}

// namespaceAPI is an API that lists the repositories of a namespace.
type namespaceAPI struct {
	// target returns the URL of a page by its number, counted from 1, or by its token.
	target func(n reference.Namespace, page int, token string) url.URL
	// read returns the names on a page, as paths at the registry, and the token of the next
	// page. Its error is the reason why the body is not a page of this API.
	read func(body []byte) (names []string, token string, err error)
	// linked is as in bulkAPI.
	linked bool
}

// names lists the names of all pages.
func (a namespaceAPI) names(ctx context.Context, client *registry.Client, n reference.Namespace) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var pages registry.Pages
		token := ""
		for page := 1; ; page++ {
			names, next, more, err := a.page(ctx, client, n, page, token, &pages)
			if err != nil {
				yield("", err)
				return
			}
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
			if !more {
				return
			}
			token = next
		}
	}
}

func (a namespaceAPI) page(ctx context.Context, client *registry.Client, n reference.Namespace, page int, token string, pages *registry.Pages) (names []string, next string, more bool, err error) {
	var body []byte
	if err = pages.At(token); err == nil {
		body, more, err = client.GetPage(ctx, registry.OpCatalog, n.Address(), a.target(n, page, token), a.linked)
	}
	if err == nil {
		if names, next, err = a.read(body); err != nil {
			err = fmt.Errorf("%w: %s", registry.ErrUnexpected, err.Error())
		}
		more = more || next != ""
	}
	if err == nil {
		err = pages.Has(len(names))
	}
	if err == nil {
		err = pages.Holds(names...)
	}
	if err != nil && !errors.As(err, new(*registry.Error)) {
		err = &registry.Error{Op: registry.OpCatalog, Repository: n.Address(), Err: err}
	}
	return names, next, more, err
}

// quayNamespace is the API of Quay (quay/quay, endpoints/api/repository.py, listRepos). Without a
// login, it lists public repositories only.
var quayNamespace = namespaceAPI{
	target: func(n reference.Namespace, _ int, token string) url.URL {
		query := url.Values{"namespace": {n.Path()}, "public": {"true"}}
		if token != "" {
			query.Set("next_page", token)
		}
		return url.URL{Host: n.Registry(), Path: strings.TrimSuffix(quayPath, "/"), RawQuery: query.Encode()}
	},
	read: func(body []byte) (names []string, token string, err error) {
		var answer struct {
			Repositories json.RawMessage `json:"repositories"`
			NextPage     string          `json:"next_page"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, "", err
		}
		names, err = imageNames(answer.Repositories)
		return names, answer.NextPage, err
	},
}

// imageNames returns the paths of the repositories of images. Quay also lists applications of early
// versions of Helm, and Docker Hub plugins and extensions.
func imageNames(list json.RawMessage) (names []string, err error) {
	listed, err := registry.ReadList[struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		Kind      string `json:"kind"`            // at Quay
		Type      string `json:"repository_type"` // at Docker Hub
	}](list, maxItems)
	if err == nil && listed == nil {
		err = errors.New("no repositories in the answer")
	}
	for _, r := range listed {
		if cmp.Or(r.Kind, r.Type, "image") == "image" {
			names = append(names, r.Namespace+"/"+r.Name)
		}
	}
	return names, err
}

// hubNamespace is the API of Docker Hub
// (docs.docker.com/reference/api/hub/latest, listNamespaceRepositories). Without a login, it lists
// public repositories only.
var hubNamespace = namespaceAPI{
	target: func(n reference.Namespace, page int, _ string) url.URL {
		return url.URL{
			Host: reference.DockerHubAPI, Path: hubPath + n.Path() + "/repositories",
			RawQuery: url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(tagsPerPage)}}.Encode(),
		}
	},
	read: func(body []byte) (names []string, token string, err error) {
		var answer struct {
			Results json.RawMessage `json:"results"`
			Next    string          `json:"next"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, "", err
		}
		names, err = imageNames(answer.Results)
		return names, answer.Next, err
	},
}

// harborProject is the API of Harbor 2 (goharbor/harbor, api/v2.0/swagger.yaml,
// listRepositories). It takes the registry's login.
var harborProject = namespaceAPI{
	linked: true,
	target: func(n reference.Namespace, page int, _ string) url.URL {
		project, _, _ := strings.Cut(n.Path(), "/")
		return url.URL{
			Host: n.Registry(), Path: harborPath + project + "/repositories",
			RawQuery: url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(tagsPerPage)}}.Encode(),
		}
	},
	read: func(body []byte) (names []string, token string, err error) {
		listed, err := registry.ReadList[struct {
			Name string `json:"name"`
		}](body, maxItems)
		for _, r := range listed {
			names = append(names, r.Name)
		}
		return names, "", err
	},
}
