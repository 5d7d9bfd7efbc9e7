// Package config reads configuration from the environment and tells every
// mistake in it at once.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"text/tabwriter"

	"github.com/kelseyhightower/envconfig"
)

// ErrInvalid is returned by Load; its text names each variable, one to a line.
var ErrInvalid = errors.New("invalid configuration")

// Validator is implemented by settings whose values are limited by more than
// their type.
type Validator interface {
	// Validate returns what is wrong, one error for each variable.
	Validate() []error
}

// Bad returns the error for a variable. The value is left out where it may be a
// secret.
func Bad(variable, value, expected string) error {
	if value == "" {
		return fmt.Errorf("%s: expected %s", variable, expected)
	}
	return fmt.Errorf("%s=%q: expected %s", variable, value, expected)
}

// Load fills the structs that settings point to. A field has the tags envconfig
// (the variable's name), default, desc (for Help) and expect (what to say when
// the value does not parse). A variable set to nothing counts as not set.
func Load(settings ...any) error {
	var problems []error
	for _, s := range settings {
		bad := load(reflect.ValueOf(s).Elem())
		if v, ok := s.(Validator); ok && len(bad) == 0 {
			bad = v.Validate()
		}
		problems = append(problems, bad...)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w:\n%w", ErrInvalid, errors.Join(problems...))
	}
	return nil
}

// load gives envconfig one field at a time, because it stops at the first error.
func load(v reflect.Value) []error {
	var problems []error
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("envconfig")
		if name == "" {
			continue // worked out by Validate
		}
		value, set := os.LookupEnv(name)
		if set && value == "" {
			// envconfig takes an empty variable for a value and drops the default.
			_ = os.Unsetenv(name)
		}
		if value == "" && field.Tag.Get("required") == "true" {
			problems = append(problems, fmt.Errorf("%s is not set: expected %s", name, field.Tag.Get("expect")))
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

// Help lists the variables of the settings, with their defaults and meanings,
// as --help prints them.
func Help(settings ...any) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range settings {
		t := reflect.TypeOf(s).Elem()
		for i := range t.NumField() {
			tag := t.Field(i).Tag
			if tag.Get("envconfig") == "" {
				continue
			}
			value := tag.Get("default")
			if tag.Get("required") == "true" {
				value = "required"
			}
			_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", tag.Get("envconfig"), value, tag.Get("desc"))
		}
	}
	_ = w.Flush()
	return b.String()
}
