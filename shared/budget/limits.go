package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Origin is where a limit comes from.
type Origin string

// The origins, the strongest first.
const (
	Set     Origin = "RATE_LIMITS" // the operator has set it
	Learned Origin = "header"      // the registry says so
	Found   Origin = "refusals"    // found out by being refused
	None    Origin = ""            // as far as we know there is none
)

const (
	// keepSet is how long RATE_LIMITS count after a planner has last run with them:
	// as long as its runs are kept.
	keepSet = 30 * 24 * time.Hour
	// keepLearned is how long a header counts. An account that is upgraded gets no
	// header any more, and nobody tells us.
	keepLearned = 24 * time.Hour
	// renewLearned is when what was learned and is still true is stored again.
	renewLearned = keepLearned / 4
)

// SetLimits stores RATE_LIMITS for a mirror name, in place of what was stored for
// it before. A change of a limit counts at once, in every worker; a registry's first
// one as soon as a worker has heard of it, at the latest when it catches up. Where
// mirror names disagree about a registry, the lower rate counts, for they share its
// budget.
func (s *Store) SetLimits(ctx context.Context, mirror string, limits map[string]Limit) error {
	prefix := keySet + "." + mirror + "."
	keys, err := s.limits.Keys(ctx, jetstream.IgnoreDeletes())
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		return fmt.Errorf("reading the limits of %s: %w", mirror, err)
	}
	kept := map[string]bool{}
	for registry, limit := range limits {
		if !limit.valid() {
			return fmt.Errorf("%w: %s=%s", ErrLimit, registry, limit)
		}
		kept[prefix+token(registry)] = true
		if err := s.tell(ctx, prefix+token(registry), told{Registry: registry, Limit: limit}); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if strings.HasPrefix(key, prefix) && !kept[key] {
			if err := s.limits.Delete(ctx, key); err != nil {
				return fmt.Errorf("removing the limit %s: %w", key, err)
			}
		}
	}
	return s.adjustAll(ctx)
}

// tell stores a limit for everybody, this process first.
func (s *Store) tell(ctx context.Context, key string, t told) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	revision, err := s.limits.Put(ctx, key, data)
	if err != nil {
		return fmt.Errorf("storing the limit %s: %w", key, err)
	}
	t.at = s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view.newer(bucketLimits, key, revision) {
		s.view.told[key] = t
	}
	return nil
}

// Limit returns what the registry allows this identity, as far as it is known. An
// identity is whatever the registry counts by; "" is the fleet's shared address.
func (s *Store) Limit(registry, identity string) (Limit, Origin) {
	if limit, origin := s.told(registry, identity); origin != None {
		return limit, origin
	}
	if rate, ok := s.foundRate(registry, Pull); ok {
		return asLimit(rate), Found
	}
	return Limit{}, None
}

// told returns the limit that somebody has told us.
func (s *Store) told(registry, identity string) (Limit, Origin) {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.limit(registry, identity, now)
}

// limit is the limit that counts of those told.
func (v *view) limit(registry, identity string, now time.Time) (Limit, Origin) {
	var limit Limit
	origin := None
	for key, t := range v.told {
		if t.Registry != registry {
			continue
		}
		set := strings.HasPrefix(key, keySet+".")
		switch {
		case set && now.Sub(t.at) < keepSet && (origin != Set || t.Limit.rate() < limit.rate()):
			limit, origin = t.Limit, Set
		case !set && origin == None && t.Identity == identity && now.Sub(t.at) < keepLearned:
			limit, origin = t.Limit, Learned
		}
	}
	return limit, origin
}

// Learn takes what the registry says of its limit: the limit counts where none is
// set, and where less is left than we believe, somebody else spends too, and the
// difference is taken from the budget. It costs nothing where nothing is new.
func (s *Store) Learn(ctx context.Context, registry, identity string, q Quota) error {
	key := keyLearned + "." + token(registry) + "." + token(identity)
	s.mu.RLock()
	known, ok := s.view.told[key]
	s.mu.RUnlock()
	if !ok || known.Limit != q.Limit || s.Now().Sub(known.at) > renewLearned {
		if err := s.tell(ctx, key, told{Registry: registry, Identity: identity, Limit: q.Limit}); err != nil {
			return err
		}
	}
	if limit, origin := s.told(registry, identity); origin != None {
		return s.window(registry, identity).believe(ctx, s, limit, q.Remaining)
	}
	return nil
}

// adjustAll applies the limits to the windows that exist, so that a change counts
// for workers that have not heard of it yet.
func (s *Store) adjustAll(ctx context.Context) error {
	if err := s.list(ctx, s.limits); err != nil {
		return err
	}
	infos, err := s.streams(ctx)
	if err != nil {
		return err
	}
	for _, info := range infos {
		registry, identity := info.Config.Metadata[metaRegistry], info.Config.Metadata[metaIdentity]
		if limit, origin := s.told(registry, identity); origin != None {
			w := s.window(registry, identity)
			w.forget()
			if _, err := w.adjust(ctx, s, limit); err != nil {
				return err
			}
		}
	}
	return nil
}

// streams lists the windows that exist, sorted by name.
func (s *Store) streams(ctx context.Context) ([]*jetstream.StreamInfo, error) {
	lister := s.b.JS.ListStreams(ctx, jetstream.WithStreamListSubject(windowSubjects))
	var infos []*jetstream.StreamInfo
	for info := range lister.Info() {
		infos = append(infos, info)
	}
	if err := lister.Err(); err != nil {
		return nil, fmt.Errorf("listing the budgets: %w", err)
	}
	slices.SortFunc(infos, func(a, b *jetstream.StreamInfo) int { return strings.Compare(a.Config.Name, b.Config.Name) })
	return infos, nil
}
