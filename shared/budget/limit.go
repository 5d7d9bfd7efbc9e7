package budget

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Limit is a number of requests that are allowed in any window of the given length.
type Limit struct {
	Requests int           `json:"requests"`
	Window   time.Duration `json:"window"`
}

// The bounds of limits. Registries count in seconds, nats-server keeps
// deduplication windows of 100 ms and more, and the longest window in use is Docker
// Hub's of 6 h.
const (
	maxRequests = 1_000_000
	minWindow   = time.Second
	maxWindow   = 7 * 24 * time.Hour
)

func (l Limit) valid() bool {
	return l.Requests >= 1 && l.Requests <= maxRequests && l.Window >= minWindow && l.Window <= maxWindow
}

// rate returns the limit in requests a second.
func (l Limit) rate() float64 { return float64(l.Requests) / l.Window.Seconds() }

// String returns the limit as in RATE_LIMITS, "100/6h".
func (l Limit) String() string { return strconv.Itoa(l.Requests) + "/" + short(l.Window) }

// Per returns the window as in RATE_LIMITS, "6h"; "" if there is none.
func (l Limit) Per() string {
	if l.Window == 0 {
		return ""
	}
	return short(l.Window)
}

// short formats a duration without the zero minutes and seconds of time.Duration.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// errLimit begins the errors of ParseLimits.
var errLimit = errors.New("invalid limit")

// ParseLimits reads RATE_LIMITS: registry=requests/window, separated by commas.
// Every name of a registry stands for its canonical one. The error names each bad item and the
// expected form.
func ParseLimits(text string) (map[string]Limit, error) {
	limits := map[string]Limit{}
	var bad []error
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		registry, limit, expected := parseLimit(item)
		if _, twice := limits[registry]; twice {
			expected = "one limit for " + registry
		}
		if expected != "" {
			bad = append(bad, fmt.Errorf("%q: expected %s", item, expected))
			continue
		}
		limits[registry] = limit
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("%w: %w", errLimit, errors.Join(bad...))
	}
	return limits, nil
}

// anyPath makes a reference of a host name, to check it.
const anyPath = "any/path"

// parseLimit reads one item. If it is not valid, it returns the expected form.
func parseLimit(item string) (registry string, limit Limit, expected string) {
	host, value, _ := strings.Cut(item, "=")
	if !strings.Contains(value, "/") {
		return "", Limit{}, "registry=requests/window"
	}
	// A bare word would be taken for a repository of Docker Hub.
	host = strings.TrimSpace(host)
	r, err := reference.Parse(host + "/" + anyPath)
	if err != nil || r.Repository.Path() != anyPath {
		return "", Limit{}, "the host name of a registry before the =, such as docker.io"
	}
	if limit, expected = parseWindow(value); expected != "" {
		return "", Limit{}, expected
	}
	return r.Repository.Registry(), limit, ""
}

// parseWindow reads requests/window. If it is not valid, it returns the expected form.
func parseWindow(text string) (limit Limit, expected string) {
	requests, window, slash := strings.Cut(text, "/")
	if !slash {
		return Limit{}, "requests/window, such as 20/1s"
	}
	var err error
	if limit.Requests, err = strconv.Atoi(strings.TrimSpace(requests)); err != nil || limit.Requests < 1 || limit.Requests > maxRequests {
		return Limit{}, fmt.Sprintf("a number of requests from 1 to %d before the /", maxRequests)
	}
	if limit.Window, err = time.ParseDuration(strings.TrimSpace(window)); err != nil || !limit.valid() {
		return Limit{}, fmt.Sprintf("a window from %s to %s after the /, such as 6h, 90m or 10s", short(minWindow), short(maxWindow))
	}
	return limit, ""
}

// Origin is where a limit comes from.
type Origin string

// The origins, the strongest first.
const (
	Set        Origin = "RATE_LIMITS"   // set by the operator
	Learned    Origin = "header"        // sent by the registry
	Documented Origin = "documentation" // a rate in the registry's documentation
	Found      Origin = "refusals"      // a rate discovered by being refused
	None       Origin = ""              // no limit is known
)

const (
	// keepSet is how long RATE_LIMITS count after a planner has last set them: as long as runs
	// are kept.
	keepSet = 30 * 24 * time.Hour
	// keepLearned is how long a limit from a header counts. If an account is upgraded, headers with
	// limits stop coming.
	keepLearned = 24 * time.Hour
	// renewLearned is after how long a header is stored again, even if it is the same.
	renewLearned = keepLearned / 4
)

// stated is a limit from RATE_LIMITS or a header.
type stated struct {
	Registry string `json:"registry"`
	Identity string `json:"identity,omitempty"`
	Limit    Limit  `json:"limit"`

	at time.Time // by the broker's clock
}

// stored implements value.
func (l stated) stored(at time.Time) (stated, bool) {
	l.at = at
	return l, l.Limit.Requests > 0 && l.Limit.Window > 0
}

// SetLimits stores RATE_LIMITS for a mirror name, in place of those stored before. A
// changed limit counts at once, in every worker; the first one of a registry counts when a
// worker has read it, at the latest when it catches up. If mirror names have different
// limits for a registry, the lower rate counts, because they share its budget.
func (s *Store) SetLimits(ctx context.Context, mirror string, limits map[string]Limit) error {
	prefix := keySet + "." + mirror + "."
	keys, err := s.limits.Keys(ctx, jetstream.IgnoreDeletes())
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		return fmt.Errorf("reading the limits of %s: %w", mirror, err)
	}
	kept := map[string]bool{}
	for registry, limit := range limits {
		if !limit.valid() {
			return fmt.Errorf("%w: %s=%s", errLimit, registry, limit)
		}
		kept[prefix+token(registry)] = true
		if err := s.storeLimit(ctx, prefix+token(registry), stated{Registry: registry, Limit: limit}); err != nil {
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

// storeLimit stores a limit for the fleet.
func (s *Store) storeLimit(ctx context.Context, key string, limit stated) error {
	if err := s.store(ctx, s.limits, key, limit); err != nil {
		return fmt.Errorf("storing the limit %s: %w", key, err)
	}
	return nil
}

// Limit returns the known limit of the registry for an identity, by which the registry counts.
// "" stands for the fleet's address.
func (s *Store) Limit(registry, identity string) (Limit, Origin) {
	if limit, origin := s.stated(registry, identity); origin != None {
		return limit, origin
	}
	l, documented, _ := s.line(registry, Pull, HTTP1)
	rate, ok := s.foundRate(l, documented)
	if all, refused := s.refusedRate(line{registry, All, HTTP1}, Rate{}); refused && (!ok || all < rate) {
		rate, ok = all, true
	}
	if !ok {
		return Limit{}, None
	}
	return asLimit(rate), Found
}

// stated returns the limit from RATE_LIMITS or a header.
func (s *Store) stated(registry, identity string) (Limit, Origin) {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.limit(registry, identity, now)
}

// limit returns the one of the stated limits that counts.
func (v *view) limit(registry, identity string, now time.Time) (Limit, Origin) {
	var limit Limit
	origin := None
	for key, t := range v.stated {
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

// adjustAll applies the limits to all windows, so that a change counts for workers that
// have not read it yet.
func (s *Store) adjustAll(ctx context.Context) error {
	if err := s.read(ctx, s.limits); err != nil {
		return err
	}
	infos, err := s.streams(ctx)
	if err != nil {
		return err
	}
	for _, info := range infos {
		registry, identity := info.Config.Metadata[metaRegistry], info.Config.Metadata[metaIdentity]
		if limit, origin := s.stated(registry, identity); origin != None {
			w := s.window(registry, identity)
			w.forget()
			if _, err := w.adjust(ctx, s, limit); err != nil {
				return err
			}
		}
	}
	return nil
}

// streams returns the streams of all windows, sorted by name.
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
