// Package config reads configuration from the environment and reports all problems at once.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/kelseyhightower/envconfig"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/redact"
)

// ErrInvalid is returned by Load. Its text has a line for each invalid variable.
var ErrInvalid = exit.Usage.New("invalid configuration")

// validator is implemented by settings with conditions that their types do not express.
type validator interface {
	// Validate returns an error made by Bad for each invalid variable. Variables that could not
	// be parsed have their zero values; Load has reported them already.
	Validate() []error
}

// problem is the error for one variable.
type problem struct{ variable, text string }

// Error implements error.
func (p problem) Error() string { return p.variable + p.text }

// Bad returns the error for a variable. The value is left out if it may be a
// secret.
func Bad(variable, value, expected string) error {
	if value == "" {
		return problem{variable, ": expected " + expected}
	}
	return problem{variable, fmt.Sprintf("=%q: expected %s", value, expected)}
}

// Load fills the structs that settings point to from the environment. The tags of a field are envconfig
// (the name of the variable), default, desc (for --help) and expect (for the error if the value cannot
// be parsed). An empty variable counts as not set. Load first adds the secrets in the environment to
// package redact.
func Load(settings ...any) error {
	redact.AddEnvironment(os.Environ())
	var problems []error
	for _, s := range settings {
		bad := load(reflect.ValueOf(s).Elem())
		problems = append(problems, bad...)
		if v, ok := s.(validator); ok {
			problems = append(problems, others(v.Validate(), bad)...)
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w:\n%w", ErrInvalid, errors.Join(problems...))
	}
	return nil
}

// others returns the problems of variables that have no problem yet.
func others(problems, before []error) []error {
	return slices.DeleteFunc(problems, func(err error) bool {
		var p problem
		return errors.As(err, &p) && slices.ContainsFunc(before, func(b error) bool {
			var known problem
			return errors.As(b, &known) && known.variable == p.variable
		})
	})
}

// load gives envconfig one field at a time, because it stops at the first error.
func load(v reflect.Value) []error {
	var problems []error
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("envconfig")
		if name == "" {
			continue // Validate sets it
		}
		value, set := os.LookupEnv(name)
		if set && value == "" {
			// For an empty variable, envconfig would not use the default.
			_ = os.Unsetenv(name)
		}
		if value == "" && field.Tag.Get("required") == "true" {
			problems = append(problems, problem{name, " is not set: expected " + field.Tag.Get("expect")})
			continue
		}
		one := reflect.New(reflect.StructOf([]reflect.StructField{field}))
		if err := envconfig.Process("", one.Interface()); err != nil {
			problems = append(problems, Bad(name, value, field.Tag.Get("expect")))
			continue
		}
		v.Field(i).Set(one.Elem().Field(0))
	}
	return problems
}

// Variables is the annotation of a command that describes the variables that it reads.
const Variables = "variables"

// HelpTemplate is the template for the help of commands: usage and flags first, then the
// description and the variables.
const HelpTemplate = `{{.UsageString}}
{{or .Long .Short}}
{{with index .Annotations "` + Variables + `"}}
Environment variables:
{{.}}{{end}}`

// Annotation returns the annotations of a command that reads the settings.
func Annotation(settings ...any) map[string]string {
	return map[string]string{Variables: help(settings...)}
}

// help returns a line for each variable of the settings, with its default and meaning.
func help(settings ...any) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for name, tag := range variables(settings) {
		value := tag.Get("default")
		if tag.Get("required") == "true" {
			value = "required"
		}
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", name, value, tag.Get("desc"))
	}
	_ = w.Flush()
	return b.String()
}
