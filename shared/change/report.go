package change

import "time"

// Report is the changes of a run as JSON. It is part of the contract.
type Report struct {
	Run     string     `json:"run"`
	Changes []Reported `json:"changes"`
	More    int        `json:"more"` // that are not listed
}

// Reported is a change as JSON.
type Reported struct {
	Kind        Kind      `json:"kind"`
	Image       string    `json:"image"`       // quay.io/osism/osism:1.0
	Destination string    `json:"destination"` // registry.example.com/osism/osism:1.0
	From        string    `json:"from"`        // digests at the destination, empty if there was or is none
	To          string    `json:"to"`
	Refused     string    `json:"refused,omitempty"` // that the source has under an immutable tag
	Bytes       int64     `json:"bytes"`
	Seconds     float64   `json:"seconds"`
	At          time.Time `json:"at"`
}

// NewReport returns the changes of a run as JSON has them.
func NewReport(run string, changes []Change, more int) Report {
	r := Report{Run: run, Changes: []Reported{}, More: more}
	for _, c := range changes {
		r.Changes = append(r.Changes, Reported{
			Kind: c.Kind(), Image: c.Image(), Destination: c.Destination.String() + ":" + c.Tag.String(),
			From: c.From.String(), To: c.To.String(), Refused: c.Refused.String(), Bytes: c.Bytes, Seconds: c.Took.Round(time.Millisecond).Seconds(), At: c.At,
		})
	}
	return r
}
