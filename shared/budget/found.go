package budget

import "time"

// An unannounced limit is discovered as TCP discovers the capacity of a network: requests
// start at a moderate rate, and each one that is sent raises it until a registry refuses;
// a refusal lowers it, and from then on it grows slowly. The rate follows from the last
// reservation of the lane, so that workers share only reservations and refusals. Requests are
// spread evenly, so that any kind of limit is kept if the average is right.
//
// All requests that are under way when a registry begins to refuse are refused. So a rate that
// was never refused allows only so many of them: few in relation to those that were answered,
// which are fewer than the registry allows in a second, or in a minute. How many are under way
// at a rate follows from the time that the registry takes to answer.
//
// Each request to a registry without documented rates counts in the line All. Pulls are also
// discovered apart, because many registries limit only them. Other kinds get a line of their
// own when one is refused. Until a second kind is refused, All explores again, so that a
// registry's limit for one kind does not slow the others down.
const (
	// firstRate is the rate of the first requests, in requests a second: fast enough not to
	// matter for a registry without a limit, and slow enough that few requests are under
	// way when a registry refuses.
	firstRate = 32.0
	// underWayFirst is how many requests may be under way at first. Each request that is sent
	// allows underWayEach more, but at most cautious of them before plenty were sent: if a registry
	// limits the requests of a minute, it often allows 300. At a round trip of 40 ms, the rate is
	// 350 a second after 50 requests.
	underWayFirst = 3.0
	underWayEach  = 0.3
	cautious      = 15.0
	plenty        = 320.0
	// underWayAgain is underWayEach after a refusal: the limit may still be nearly used up when
	// the registry is reopened.
	underWayAgain = 0.1
	// enough is how many requests must have been sent before the rate may count as unlimited.
	enough = 425.0
	// assumedLatency is the time that a registry takes to answer if it has not answered yet.
	assumedLatency = 250 * time.Millisecond
	// shortestWindow is the shortest window in which registries count, and careful the part of
	// the requests that were sent in it which the registry is expected to answer. The others
	// have shown that the rate was too high.
	shortestWindow = time.Second
	careful        = 0.75
	// exploreHorizon is how far ahead slots are reserved meanwhile: they keep the rate at which
	// they were reserved.
	exploreHorizon = 50 * time.Millisecond
	// foundHorizon is how far ahead they are reserved after a refusal, so that few are reserved
	// and not used when the next one comes.
	foundHorizon = 250 * time.Millisecond
	// unlimited is the rate that counts as unlimited: from there on, all waiting requests are sent
	// at once, which is hardly more than at this rate.
	unlimited = 500.0
	// creeping is how long the rate takes to double after a refusal, and creepingRequests
	// how many requests that takes at least. One or two of them are refused when the rate
	// is too high again.
	creeping         = 2 * time.Minute
	creepingRequests = 300
	// longestWindow is the longest window of a limit that is discovered by its length: most
	// are of a second or a minute. A longer refusal may have another reason than a limit.
	longestWindow = time.Minute
	// lowered is by which factor one refusal lowers the rate at most, and significant is how
	// many requests must have been answered to lower it by more than half.
	lowered     = 4
	significant = 5
	// slowest is the lowest rate: one request in the longest backoff.
	slowest = 1 / float64(maxBackoff/time.Second)
	// keepFound is how long a rate counts that grows by requests. One that is below a documented
	// rate grows with time, and counts for keepBelow: the registry may be busy.
	keepFound = 30 * 24 * time.Hour
	keepBelow = 24 * time.Hour
)

// found is the rate of requests to a registry whose limit is not known, or lower than documented.
type found struct {
	Registry string    `json:"registry"`
	Kind     Kind      `json:"kind"`
	Rate     float64   `json:"rate"`              // requests a second, at From
	From     time.Time `json:"from"`              // by the broker's clock
	Refused  bool      `json:"refused"`           // whether it has ever been too high
	ByTime   bool      `json:"by_time,omitempty"` // whether it grows with time, up to the documented rate

	Refusal time.Time `json:"refusal,omitzero"` // when it was last too high
	// Of the requests that led to the last refusals in a row:
	Sent  float64   `json:"sent,omitempty"` // how many there were at most
	Since time.Time `json:"since,omitzero"` // when the first was sent
}

// stored implements value.
func (f found) stored(time.Time) (found, bool) { return f, f.Rate >= 0 }

// current returns the rate now, and false if it is not known or so high that it is no limit.
// Requests may have raised it since.
func (f found) current(now time.Time) (float64, bool) {
	rate, ok := f.at(now)
	return rate, ok && rate < unlimited
}

// at returns the rate at a time, and false if it is not known.
func (f found) at(now time.Time) (float64, bool) {
	if !f.counts(now) {
		return 0, false
	}
	if !f.ByTime {
		return f.Rate, true
	}
	passed := max(now.Sub(f.From), 0)
	grow := max(creeping.Seconds(), creepingRequests/f.Rate)
	return f.Rate * (1 + passed.Seconds()/grow), true
}

// explores reports whether the rate still grows fast.
func (f found) explores(now time.Time) bool {
	return f.counts(now) && !f.Refused && f.Rate < unlimited
}

// counts reports whether the rate is known and may be believed.
func (f found) counts(now time.Time) bool {
	keep := keepFound
	if f.ByTime {
		keep = keepBelow
	}
	return f.Rate > 0 && now.Sub(f.From) <= keep
}

// growing is how requests raise a rate. Only those count that were sent since a time.
type growing struct {
	since time.Time // by the broker's clock; zero if they do not
	from  float64   // requests a second
	by    float64   // requests a second, each; 0: as long as the rate explores
}

// rate returns the rate after a number of requests to a registry that takes this long to answer.
func (g growing) rate(sent float64, latency time.Duration) float64 {
	if g.by > 0 {
		return min(g.from+g.by*sent, max(min(g.from, firstRate), underWayAgain*sent/latency.Seconds()))
	}
	underWay := min(max(underWayFirst, underWayEach*sent), cautious) + underWayEach*max(sent-plenty, 0)
	rate := max(g.from, underWay/latency.Seconds())
	if sent < enough {
		return min(rate, unlimited-1)
	}
	return rate
}

// growing returns how requests raise the rate.
func (f found) growing(now time.Time) growing {
	switch {
	case f.ByTime || !f.counts(now) || f.Rate >= unlimited:
		return growing{}
	case f.Refused:
		return growing{f.From, f.Rate, min(1/creeping.Seconds(), f.Rate/creepingRequests)}
	}
	return growing{since: f.From, from: f.Rate}
}

// horizon returns how far ahead slots are reserved.
func (f found) horizon(now time.Time) time.Duration {
	if f.explores(now) {
		return exploreHorizon
	}
	return foundHorizon
}

// reached returns the rate that the requests since a rate's time have reached.
type reached struct {
	rate float64 // of the last ones, in requests a second
	sent float64 // requests
}

// refused returns the rate after a refusal that has closed the registry. last is the rate that was
// reached before.
func (f found) refused(now time.Time, c closure, last reached) found {
	switch {
	case f.closed(now):
	case c.Count == 1 || !f.Refused:
		f.Rate, f.Sent, f.Since = f.lower(now, last), f.sent(now, last), f.From
		f.Refused = true
	case f.Sent > 0 && now.Sub(f.Since) <= longestWindow:
		// The registry refuses again before any success, so its limit was still used up: from now
		// until it reopens, it allows no more requests than were sent.
		f.Rate = min(f.Rate, f.Sent/now.Add(c.Duration).Sub(f.Since).Seconds())
	}
	f.Refusal, f.From = now, latest(f.From, now.Add(c.Duration))
	return f
}

// again returns the rate after a refusal that does not show the limit: it explores
// again from a rate.
func (f found) again(now time.Time, c closure, rate float64) found {
	if f.closed(now) {
		f.From = latest(f.From, now.Add(c.Duration))
		return f
	}
	return found{Rate: rate, Refusal: now, From: now.Add(c.Duration)}
}

// closed reports whether the registry is closed by an earlier refusal. Requests that were under
// way together are refused together and count as one refusal.
func (f found) closed(now time.Time) bool { return !f.Refusal.IsZero() && now.Before(f.From) }

// lower returns the rate after one that was too high: half of it, or less if fewer requests
// were answered until then, since the limit was used up or the first one was sent. While a
// registry was closed, its limit may have recovered by anything from a window to all of the time.
func (f found) lower(now time.Time, last reached) float64 {
	half := max(last.rate/2, slowest)
	passed, sent := now.Sub(f.From), f.sent(now, last)
	if f.Refused {
		passed += f.From.Sub(f.Refusal) / 2
	}
	switch {
	case passed <= 0 || passed > longestWindow || sent < significant:
		return half
	case f.explores(f.From):
		return min(half, max(careful*sent/max(passed, shortestWindow).Seconds(), firstRate/lowered))
	}
	return min(half, max(sent/passed.Seconds(), last.rate/lowered, slowest))
}

// sent returns how many requests were sent at most since From; 0 if that is not known.
func (f found) sent(now time.Time, last reached) float64 {
	switch {
	case !f.counts(now) || f.Rate >= unlimited:
		return 0
	case f.ByTime:
		return (f.Rate + last.rate) / 2 * max(now.Sub(f.From), 0).Seconds()
	}
	return last.sent
}
