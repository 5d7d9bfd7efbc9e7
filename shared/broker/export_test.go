package broker

// These are for the tests.
var (
	Unanswered = unanswered
	Placed     = placed[int]
	Responded  = responded[int]
)

const (
	Placeable      = placeable
	RequestTimeout = requestTimeout
)
