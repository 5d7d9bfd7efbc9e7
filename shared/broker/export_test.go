package broker

// Unanswered, Placed and Placeable are for the tests.
var (
	Unanswered = unanswered
	Placed     = placed[int]
)

const Placeable = placeable
