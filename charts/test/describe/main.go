// Command describe writes the comments of a chart's values into its values.schema.json, as
// the descriptions that editors and Artifact Hub show.
//
//	describe CHART
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/tidwall/pretty"
	"github.com/tidwall/sjson"
	"go.yaml.in/yaml/v3"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: describe CHART")
		os.Exit(2)
	}
	path := filepath.Join(os.Args[1], "values.schema.json")
	described, err := describe(os.Args[1])
	if err == nil {
		err = os.WriteFile(path, described, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// describe returns the schema of the chart in a folder, with the comment above each value
// as the description of its property. The order of the schema stays the same.
func describe(chart string) ([]byte, error) {
	schema, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return nil, err
	}
	var values yaml.Node
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	schema, err = properties(schema, "properties", values.Content[0])
	if err != nil {
		return nil, err
	}
	return pretty.PrettyOptions(schema, &pretty.Options{Width: 100, Indent: "  "}), nil
}

// properties describes the values of a mapping. path leads to their properties in the schema;
// values whose keys are the user's own have none.
func properties(schema []byte, path string, values *yaml.Node) (described []byte, err error) {
	for i := 0; i+1 < len(values.Content); i += 2 {
		key, value := values.Content[i], values.Content[i+1]
		property := path + "." + key.Value
		if !gjson.GetBytes(schema, property).Exists() {
			continue
		}
		text, whole := comment(key.HeadComment)
		if text == "" {
			return nil, fmt.Errorf("values.yaml:%d: %s has no comment above it", key.Line, key.Value)
		}
		if schema, err = sjson.SetBytes(schema, property+".description", text); err != nil {
			return nil, err
		}
		if value.Kind == yaml.MappingNode && !whole {
			if schema, err = properties(schema, property+".properties", value); err != nil {
				return nil, err
			}
		}
	}
	return schema, nil
}

// comment returns the text of a comment, and whether it is about a value as a whole: then it
// begins with --, and helm-docs writes it into the README.
func comment(text string) (joined string, whole bool) {
	var lines []string
	for line := range strings.Lines(text) {
		line, about := strings.CutPrefix(strings.TrimPrefix(strings.TrimSpace(line), "# "), "-- ")
		whole = whole || about
		lines = append(lines, line)
	}
	return strings.Join(lines, " "), whole
}
