package containers

import "time"

// SetClock replaces the clock.
func (k *Keychain) SetClock(now func() time.Time) { k.now = now }
