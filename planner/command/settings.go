package command

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/planner/notify"
	"github.com/osism/skopeo-worker/planner/web"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/service"
)

// mirrorName is the variable that every command needs.
type mirrorName struct {
	Name string `envconfig:"MIRROR_NAME" default:"default" desc:"name of this mirror; mirrors that share a broker need different names"`
}

// Validate implements config.Validator.
func (m *mirrorName) Validate() []error {
	if !subject.ValidName(m.Name) {
		return []error{config.Bad("MIRROR_NAME", m.Name, "1 to 32 lower-case letters, digits and dashes")}
	}
	return nil
}

// job is the list, the destination, and how the list is split into chunks.
type job struct {
	Source   string        `envconfig:"MIRROR_SOURCE_URL" required:"true" expect:"the http(s) URL or the path of the list, or - for standard input" desc:"http(s) URL or path of the list, or - for standard input"`
	Dest     string        `envconfig:"MIRROR_DEST_URL" required:"true" expect:"host[:port][/prefix] of the destination" desc:"host[:port][/prefix] of the destination registry"`
	Size     uint          `envconfig:"CHUNK_SIZE" default:"10" expect:"a whole number, 0 or more" desc:"entries per chunk; 0: the whole list is one chunk"`
	Number   uint          `envconfig:"CHUNK_NUMBER" default:"0" expect:"a whole number, 0 or more" desc:"publish only this chunk, counted from 1, due now; 0: all"`
	Interval time.Duration `envconfig:"CHUNK_INTERVAL" default:"0s" expect:"a duration such as 90s, 10m or 4h" desc:"chunk k is due (k-1) times this after chunk 1"`

	Filter       string        `envconfig:"FILTER" desc:"mirror only tags that this regular expression (RE2) matches at their start"`
	Limit        uint          `envconfig:"LIMIT" default:"0" expect:"a whole number, 0 or more" desc:"mirror at most this many tags per repository, newest first; 0: all"`
	Platforms    string        `envconfig:"PLATFORMS" desc:"mirror only these platforms, as linux/amd64,linux/arm64; empty: all"`
	Attestations bool          `envconfig:"ATTESTATIONS" default:"true" expect:"true or false" desc:"mirror the attestation manifests of an index"`
	Referrers    bool          `envconfig:"REFERRERS" default:"false" expect:"true or false" desc:"mirror the referrers of images: signatures, SBOMs, attestations"`
	MinAge       selection.Age `envconfig:"MIN_AGE" expect:"days such as 3d, or a duration such as 36h" desc:"mirror a tag only when it has had its digest for this long, as 3d or 36h; empty: at once"`
	Immutable    string        `envconfig:"IMMUTABLE_TAGS" desc:"tags that are never replaced at the destination: regular expressions (RE2), separated by spaces, that match them at their start"`
	KeepTags     string        `envconfig:"KEEP_TAGS" desc:"tags that planner prune never deletes: regular expressions (RE2), separated by spaces, that match them at their start"`
	BackupTag    string        `envconfig:"BACKUP_TAG" desc:"when a tag is replaced at the destination, keep its image under another tag: a template with {tag}, {date} and {digest}, such as {tag}-{date}"`
	BackupKeep   int           `envconfig:"BACKUP_KEEP" default:"3" expect:"a whole number, 1 or more" desc:"how many backups of a tag are kept at most"`
	RateLimits   string        `envconfig:"RATE_LIMITS" desc:"pulls that registries allow in a window, as docker.io=100/6h,quay.io=20/1s; overrides their headers"`

	destination reference.Destination
	limits      map[string]budget.Limit
	defaults    selection.Selection
}

// maxNumber is the largest number of a setting, as in a list.
const maxNumber = math.MaxInt32

// Validate implements config.Validator.
func (j *job) Validate() []error {
	var bad []error
	for _, number := range []struct {
		variable string
		n        uint
	}{{"CHUNK_SIZE", j.Size}, {"CHUNK_NUMBER", j.Number}, {"LIMIT", j.Limit}} {
		if number.n > maxNumber {
			bad = append(bad, config.Bad(number.variable, strconv.FormatUint(uint64(number.n), 10), fmt.Sprintf("a whole number, 0 to %d", maxNumber)))
		}
	}
	if j.Interval < 0 {
		bad = append(bad, config.Bad("CHUNK_INTERVAL", "", "a duration such as 90s, 10m or 4h"))
	}
	var err error
	if j.destination, err = reference.ParseDestination(j.Dest); err != nil {
		bad = append(bad, config.Bad("MIRROR_DEST_URL", "", "host[:port][/prefix] of the destination: "+err.Error()))
	}
	if j.limits, err = budget.ParseLimits(j.RateLimits); err != nil {
		bad = append(bad, config.Bad("RATE_LIMITS", "", "limits such as docker.io=100/6h,quay.io=20/1s: "+err.Error()))
	}
	return append(bad, j.choose()...)
}

// choose sets the selection of entries without keys of their own. It returns the invalid variables.
func (j *job) choose() []error {
	j.defaults = selection.Selection{Limit: int(j.Limit), WithoutAttestations: !j.Attestations, Referrers: j.Referrers, MinAge: j.MinAge}
	var bad []error
	if j.Filter != "" {
		j.defaults.Include = []string{j.Filter}
		if why := reason((selection.Selection{Include: j.defaults.Include}).Validate()); why != "" {
			bad = append(bad, config.Bad("FILTER", "", "a regular expression (RE2): "+why))
		}
	}
	if j.BackupKeep < 1 {
		bad = append(bad, config.Bad("BACKUP_KEEP", strconv.Itoa(j.BackupKeep), "a whole number, 1 or more"))
	} else if j.BackupTag != "" {
		j.defaults.Backup = selection.Backup{Template: j.BackupTag, Keep: j.BackupKeep}
		if err := j.defaults.Backup.Validate(); err != nil {
			bad = append(bad, config.Bad("BACKUP_TAG", j.BackupTag, "a template such as {tag}-{date}: "+err.Error()))
		}
	}
	for _, patterns := range []struct {
		variable, text string
		into           *[]string
	}{{"IMMUTABLE_TAGS", j.Immutable, &j.defaults.Immutable}, {"KEEP_TAGS", j.KeepTags, &j.defaults.Keep}} {
		if patterns.text != "" {
			*patterns.into = strings.Fields(patterns.text)
		}
		if why := reason((selection.Selection{Include: *patterns.into}).Validate()); why != "" {
			bad = append(bad, config.Bad(patterns.variable, "", "regular expressions (RE2), separated by spaces: "+why))
		}
	}
	if j.Platforms != "" {
		items := strings.Split(j.Platforms, ",")
		for i, item := range items {
			items[i] = strings.TrimSpace(item)
		}
		var err error
		if j.defaults.Platforms, err = selection.ParsePlatforms(items); err != nil {
			bad = append(bad, config.Bad("PLATFORMS", "", "os/arch[/variant], separated by commas: "+reason(err)))
		}
	}
	return bad
}

// reason returns the problems of a selection in one line. It leaves out the keys of the list, because
// the variables have other names.
func reason(err error) string {
	var bad *selection.Error
	if !errors.As(err, &bad) {
		return ""
	}
	texts := make([]string, len(bad.Problems))
	for i, p := range bad.Problems {
		texts[i] = p.Text
	}
	return strings.Join(texts, "; ")
}

// outages bounds how long a command that follows a run waits for registries that are away.
type outages struct {
	Timeout time.Duration `envconfig:"OUTAGE_TIMEOUT" default:"24h" expect:"a duration such as 24h, more than 0" desc:"how long plan --wait and mirror wait for registries that are away before they exit as unfinished; the rest of the run is kept"`
}

// Validate implements config.Validator.
func (o *outages) Validate() []error {
	if o.Timeout <= 0 {
		return []error{config.Bad("OUTAGE_TIMEOUT", "", "a duration such as 24h, more than 0")}
	}
	return nil
}

// settings are all variables of the planner. Those of the worker are for commands that copy images.
type settings struct {
	job        job
	name       mirrorName
	broker     broker.Config
	outages    outages
	worker     service.Config
	metrics    service.OptionalMetrics
	registries service.Registries
	trust      service.Trust
	timetable  timetable
	web        web.Config
	notify     notify.Config
	log        config.Log
}

// all returns every setting.
func (s *settings) all() []any {
	return []any{&s.job, &s.name, &s.broker, &s.outages, &s.worker, &s.metrics, &s.registries, &s.trust, &s.timetable, &s.web, &s.notify, &s.log}
}

// stored returns the settings of commands that read the data at the broker.
func (s *settings) stored() []any { return []any{&s.name, &s.broker, &s.log} }

// copies returns the settings of commands that copy images.
func (s *settings) copies() []any {
	return []any{&s.name, &s.broker, &s.outages, &s.worker, &s.metrics, &s.registries, &s.trust, &s.log}
}

// ExitCodes describes the exit codes of all commands for help and manual pages.
const ExitCodes = `  0  done
  1  some images failed and are kept for republish; check: something could not be checked;
     failed --exit-code: there are failures; prune: the plan would delete too
     much, or something could not be deleted
  2  wrong usage or bad input; nothing was published
  3  the list or the broker could not be reached
  4  unfinished: timed out, cancelled, superseded or interrupted, or a registry is away;
     check --exit-code: there is something to do
`
