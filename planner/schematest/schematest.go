// Package schematest checks documents against the JSON Schemas in docs, for tests.
package schematest

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// Compile returns the schema in a file. Its formats are checked, too.
func Compile(t testing.TB, path string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile(path)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// Value returns a YAML document in the form that schemas validate.
func Value(t testing.TB, text string) any {
	t.Helper()
	var v any
	err := yaml.Unmarshal([]byte(text), &v)
	var data []byte
	if err == nil {
		data, err = json.Marshal(v)
	}
	if err == nil {
		v, err = jsonschema.UnmarshalJSON(bytes.NewReader(data))
	}
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
