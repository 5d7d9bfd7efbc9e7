package budget

import "github.com/osism/skopeo-worker/shared/subject"

// What the broker keeps for us. The subjects are outside of the mirror stream's.
const (
	bucketLimits = "mirror_limits"
	bucketClosed = "mirror_closed"
	streamPace   = "mirror_pace"

	subjectPace    = "budget.pace"
	subjectWindow  = "budget.window"
	streamWindow   = "mirror_window_"
	metaRegistry   = "registry"
	metaIdentity   = "identity"
	metaSlack      = "slack"
	metaUntil      = "slack_until"
	separator      = "==" // which no encoded token has in it
	keySet         = "set"
	keyLearned     = "learned"
	keyFound       = "found"
	keyTurn        = "turn"
	windowSubjects = subjectWindow + ".>"
)

// token encodes s as one token of a subject, a key, or a stream's name.
func token(s string) string { return subject.NewAddress("", "", s, "").Registry }
