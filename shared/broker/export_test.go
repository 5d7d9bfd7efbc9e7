package broker

// These are for the tests.
var (
	Unanswered = unanswered
	Placed     = placed[int]
	Responded  = responded[int]

	LockFolder   = lockFolder
	UnlockFolder = unlockFolder
)

const (
	Placeable      = placeable
	RequestTimeout = requestTimeout
)
