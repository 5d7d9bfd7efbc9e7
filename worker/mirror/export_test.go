package mirror

import "time"

// SetClock sets the time by which the mirror forgets what it has seen at destinations.
func (m *Mirror) SetClock(now func() time.Time) { m.seen.now = now }
