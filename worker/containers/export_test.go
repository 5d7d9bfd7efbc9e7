package containers

import "time"

// SetClock replaces the clock that answers grow old by.
func (k *Keychain) SetClock(now func() time.Time) { k.now = now }
