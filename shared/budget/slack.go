package budget

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// slack is how much longer than the registry's window W we count a token: the
// tenth part of it, and within these bounds.
//
// A token is dated t when the broker stores it, and its request is dated a when it
// reaches the registry. That is later, and by no more than the slack s, because what
// may come later is aborted (Token.Deadline): t <= a <= t+s. The broker holds at most
// L tokens and drops none before it is W+s old, so of any L+1 tokens the last, t2, is
// at least W+s after the first, t1. Their requests are then
//
//	a2 - a1 >= t2 - (t1+s) >= (W+s) - s = W
//
// apart, and so no L+1 requests fit into a window of length W, in whatever order
// they arrive. Nobody's clock is in this but the broker's, and that as a difference
// only. We count a token's life from before the broker dated it, which errs on the
// safe side. The clocks of a cluster's nodes must agree, as NTP makes them: after a
// change of leader, a token is dated by one and dropped by another. A limit that is
// lowered holds for what is taken from then on: what was taken before stays in the
// window until it is W+s old.
func slack(window time.Duration) time.Duration {
	return min(max(window/10, minSlack), maxSlack)
}

const (
	// minSlack lets a process of skopeo start, which takes up to 200 ms where eight
	// do at once, and ask for its manifest.
	minSlack = time.Second
	// maxSlack is more than any request takes that is not lost.
	maxSlack = 30 * time.Second
	// lateInARow is how many requests must be late before the slack is doubled: one
	// can be, where the machine is busy for a moment.
	lateInARow = 3
	// looseFor is how long it stays so.
	looseFor = 10 * time.Minute
)

// loose is a slack that is larger than slack's, because requests take long: over a
// slow link, or on a busy machine. It holds for tokens that are taken before a time.
// Whoever does not know of it yet is stricter than it has to be. The zero value is
// none.
type loose struct {
	slack time.Duration
	until time.Time // by the broker's clock
}

// looseOf reads what is written in a stream's metadata.
func looseOf(metadata map[string]string) loose {
	slack, _ := time.ParseDuration(metadata[metaSlack])
	until, _ := time.Parse(time.RFC3339Nano, metadata[metaUntil])
	return loose{slack, until}
}

// in adds it to a stream's metadata.
func (l loose) in(metadata map[string]string) map[string]string {
	if l.slack > 0 {
		metadata[metaSlack], metadata[metaUntil] = l.slack.String(), l.until.Format(time.RFC3339Nano)
	}
	return metadata
}

// at is the slack of a token that is taken now, and dated a moment later.
func (l loose) at(window time.Duration, now time.Time) time.Duration {
	if now.Add(l.slack).Before(l.until) {
		return max(slack(window), l.slack)
	}
	return slack(window)
}

// age is for how long tokens are held: as long as the last one needs that was taken
// with the larger slack.
func (l loose) age(window time.Duration, now time.Time) time.Duration {
	if now.Before(l.until.Add(window + l.slack)) {
		return window + max(slack(window), l.slack)
	}
	return window + slack(window)
}

// InTime tells that the token's request was sent in time.
func (t Token) InTime() {
	if t.window != nil {
		t.window.late.Store(0)
	}
}

// Late tells that it was not. Where that happens again and again, tokens are held for
// longer, and requests may take longer.
func (t Token) Late(ctx context.Context) error {
	if t.window == nil || t.window.late.Add(1) < lateInARow {
		return nil
	}
	t.window.late.Store(0)
	if err := t.window.loosen(ctx, t.store, t.slack); err != nil {
		return fmt.Errorf("holding the tokens of %s for longer: %w", t.window.registry, err)
	}
	return nil
}

// loosen doubles a slack that was too tight, unless somebody else has.
func (w *window) loosen(ctx context.Context, s *Store, tight time.Duration) error {
	w.adjusting.Lock()
	defer w.adjusting.Unlock()
	defer w.forget()
	stream, err := s.b.JS.Stream(ctx, w.name)
	if err != nil {
		return err
	}
	limit, origin := s.told(w.registry, w.identity)
	c, now := stream.CachedInfo().Config, s.Now()
	if origin == None || tight >= maxSlack || looseOf(c.Metadata).at(limit.Window, now) > tight {
		return nil
	}
	wider := loose{min(2*tight, maxSlack), now.Add(looseFor)}
	c.Metadata = wider.in(maps.Clone(c.Metadata))
	s.log.Warn("requests take long to be sent, so tokens are held for longer", "registry", w.registry, "slack", wider.slack)
	_, err = s.b.JS.UpdateStream(ctx, w.config(c, limit, now))
	return err
}
