package mirror

import "time"

// SetClock sets the clock by which the mirror forgets observations of destinations.
func (m *Mirror) SetClock(now func() time.Time) { m.seen.now = now }
