package command

import (
	"strings"
	"time"

	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/service"
)

// mirrorName is the variable that every command needs.
type mirrorName struct {
	Name string `envconfig:"MIRROR_NAME" default:"default" desc:"name of this mirror, so that several can share a broker"`
}

// Validate implements config.Validator.
func (m *mirrorName) Validate() []error {
	if !subject.ValidName(m.Name) {
		return []error{config.Bad("MIRROR_NAME", m.Name, "1 to 32 lower-case letters, digits and dashes")}
	}
	return nil
}

// job says what to mirror, where to, and in which chunks.
type job struct {
	Source   string        `envconfig:"MIRROR_SOURCE_URL" required:"true" expect:"the http(s) URL or the path of the list, or - for standard input" desc:"http(s) URL or path of the list, or - for standard input"`
	Dest     string        `envconfig:"MIRROR_DEST_URL" required:"true" expect:"host[:port][/prefix] of the destination" desc:"host[:port][/prefix] of the destination registry"`
	Size     int           `envconfig:"CHUNK_SIZE" default:"10" expect:"a whole number, 0 or more" desc:"entries a chunk; 0: the whole list is one chunk"`
	Number   int           `envconfig:"CHUNK_NUMBER" default:"0" expect:"a whole number, 0 or more" desc:"only this chunk, counted from 1, due now; 0: all"`
	Interval time.Duration `envconfig:"CHUNK_INTERVAL" default:"0s" expect:"a duration such as 90s, 10m or 4h" desc:"chunk k is due (k-1) times this after the first"`

	destination reference.Destination
}

// Validate implements config.Validator.
func (j *job) Validate() []error {
	var bad []error
	if j.Size < 0 {
		bad = append(bad, config.Bad("CHUNK_SIZE", "", "a whole number, 0 or more"))
	}
	if j.Number < 0 {
		bad = append(bad, config.Bad("CHUNK_NUMBER", "", "a whole number, 0 or more"))
	}
	if j.Interval < 0 {
		bad = append(bad, config.Bad("CHUNK_INTERVAL", "", "a duration such as 90s, 10m or 4h"))
	}
	var err error
	if j.destination, err = reference.ParseDestination(j.Dest); err != nil {
		bad = append(bad, config.Bad("MIRROR_DEST_URL", "", "host[:port][/prefix] of the destination: "+err.Error()))
	}
	return bad
}

func (j *job) selection() plan.Selection {
	return plan.Selection{Size: j.Size, Number: j.Number, Interval: j.Interval}
}

// settings are all variables of the planner. Those of the worker only matter
// where the planner works itself.
type settings struct {
	job        job
	name       mirrorName
	broker     broker.Config
	worker     service.Config
	registries service.Registries
	log        config.Log
}

func (s *settings) help() string {
	var b strings.Builder
	b.WriteString("Configuration is by environment:\n\n")
	b.WriteString(config.Help(&s.job, &s.name, &s.broker, &s.log))
	b.WriteString("\nWhere this process works itself (planner mirror, and republish without NATS_URL):\n\n")
	b.WriteString(config.Help(&s.worker, &s.registries))
	b.WriteString("\nExit codes: 0 done; 1 some images failed, kept for republish; 2 wrong usage or bad\n" +
		"input, nothing was published; 3 the list or the broker could not be reached;\n" +
		"4 unfinished: timed out, cancelled, superseded or interrupted.")
	return b.String()
}
