package containers

import "time"

// SetClock sets the clock.
func (k *Keychain) SetClock(now func() time.Time) { k.now = now }
