package command

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/worker/service"
)

// expand lists the repositories of the namespaces in the list, adds them as entries, and splits the
// list again. The requests count toward the budgets at the broker.
func (p *planned) expand(ctx context.Context, b *broker.Broker, s *settings, warnings io.Writer) error {
	if len(p.list.Namespaces) == 0 {
		return nil
	}
	lister, err := service.NewNamespaces(ctx, b, s.registries, s.log.Logger(warnings))
	if err != nil {
		return err
	}
	defer lister.Close()
	p.namespaces = &plan.Namespaces{Broker: b, Name: p.name, Lister: lister}
	before := len(p.list.Warnings)
	if p.list, err = p.namespaces.Expand(ctx, p.list); err != nil {
		return err
	}
	for _, w := range slices.Concat(p.list.Warnings[before:], p.failedNamespaces()) {
		_, _ = fmt.Fprintln(warnings, "warning:", w)
	}
	if p.chunks, err = p.chunking.Split(p.list.Entries, p.started); err != nil {
		return err
	}
	parts := []any{p.fingerprint}
	for _, e := range p.list.Entries {
		parts = append(parts, e.Reference)
	}
	p.fingerprint = fingerprint(parts...)
	return nil
}

// expandAlone is expand for a command without a broker.
func (p *planned) expandAlone(ctx context.Context, s *settings, warnings io.Writer) error {
	if len(p.list.Namespaces) == 0 {
		return nil
	}
	b, done, err := shared(ctx, s.broker, s.log.Logger(warnings))
	if err != nil {
		return err
	}
	defer done()
	return p.expand(ctx, b, s, warnings)
}

// failedNamespaces returns the namespaces that could not be listed completely, with the reasons.
func (p *planned) failedNamespaces() (all []string) {
	if p.namespaces == nil {
		return nil
	}
	for _, f := range p.namespaces.Failed {
		all = append(all, f.String())
	}
	return all
}
