package budget

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// reservation is a message for Count requests. Evenly spaced, they are sent one every
// interval, the first no earlier than After and no earlier than the broker has stored it.
// Each reservation follows the last, under an expected sequence, so that those of all workers
// make one even sequence by the broker's clock. Burst of them may be sent ahead of it.
type reservation struct {
	After time.Time     `json:"after"`
	Count int           `json:"count"`
	Every time.Duration `json:"every"`
	Sent  int           `json:"sent,omitempty"` // with these, since the rate grows
}

// start returns when the first request is sent if they are evenly spaced. A reservation is
// never made when that is further ahead than twice maxWait: if it seems so, the broker's clock
// was set back.
func (r reservation) start(stored time.Time) time.Time {
	if ahead := r.After.Sub(stored); ahead > 0 && ahead <= 2*maxWait {
		return r.After
	}
	return stored
}

// end returns when the next reservation may start.
func (r reservation) end(stored time.Time) time.Time {
	return r.start(stored).Add(time.Duration(r.Count) * r.Every)
}

// readReservation reads a reservation. It returns false if the message is none: a reservation
// is never for longer than it is kept.
func readReservation(m *jetstream.RawStreamMsg) (r reservation, ok bool) {
	if m == nil || json.Unmarshal(m.Data, &r) != nil || r.Count < 1 || r.Every <= 0 || r.Every > keepPace/time.Duration(r.Count) {
		return reservation{}, false
	}
	return r, true
}
