package check

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// Access is whether a run can use a registry. Its JSON is part of the command line's contract.
type Access struct {
	Registry string `json:"registry"`
	// Destination reports whether the registry is written to, rather than read from.
	Destination bool `json:"destination"`
	// Repository is the repository that was asked for.
	Repository reference.Repository `json:"repository"`
	Reason     string               `json:"reason,omitempty"` // why it cannot be used; empty if it can
}

// Access asks each registry of a list whether it answers and accepts the credentials. It also
// asks each destination whether they permit a push: it begins an upload and cancels it. It
// does so in one repository of each project, the first part of a path, because registries grant
// permissions for projects. The error is ctx's.
func (c *Checker) Access(ctx context.Context, list []message.Repository) ([]Access, error) {
	f := c.forecast()
	var all []Access
	asked := map[string]bool{}
	add := func(key string, a Access) {
		if !asked[key] {
			asked[key] = true
			all = append(all, a)
		}
	}
	for _, r := range list {
		add(r.Source.Registry(), Access{Registry: r.Source.Registry(), Repository: r.Source})
	}
	for _, r := range list {
		project, _, _ := strings.Cut(r.Destination.Path(), "/")
		add("to "+r.Destination.Registry()+"/"+project, Access{Registry: r.Destination.Registry(), Destination: true, Repository: r.Destination})
	}
	var group errgroup.Group
	group.SetLimit(requests)
	for i := range all {
		group.Go(func() error {
			if err := f.access(ctx, all[i]); err != nil {
				all[i].Reason = outcome.Reason(err)
			}
			return nil
		})
	}
	_ = group.Wait() // always nil
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return all, nil
}

func (f *forecast) access(ctx context.Context, a Access) error {
	return f.insist(ctx, a.Repository, func() error {
		if a.Destination {
			return f.checker.Mirror.Destination().Writing().MayPush(ctx, a.Repository)
		}
		return f.checker.Mirror.Registry.Alive(ctx, a.Repository, true)
	})
}
