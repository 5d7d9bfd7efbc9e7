package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

const chart = "../../skopeo-worker"

// TestSchemaIsDescribed: the schema has the comments of values.yaml, and describes each value,
// except the keys of Kubernetes' and KEDA's objects.
func TestSchemaIsDescribed(t *testing.T) {
	described, err := describe(chart)
	require.NoError(t, err)
	schema, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	require.NoError(t, err)
	require.Equal(t, string(described), string(schema), "run make chart-docs")

	count := 0
	var walk func(path string, node gjson.Result)
	walk = func(path string, node gjson.Result) {
		for key, property := range node.Get("properties").Map() {
			if path == "worker.keda.fallback." || strings.HasSuffix(path, ".strategy.") || strings.HasSuffix(path, ".issuerRef.") {
				continue
			}
			count++
			require.NotEmpty(t, property.Get("description").String(), path+key)
			walk(path+key+".", property)
		}
	}
	walk("", gjson.ParseBytes(schema))
	require.Greater(t, count, 250)
}

func TestValueWithoutAComment(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "values.yaml"), []byte("# -- One.\none: 1\ntwo: 2\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "values.schema.json"), []byte(`{"properties":{"one":{"type":"integer"},"two":{}}}`), 0o600))
	_, err := describe(dir)
	require.EqualError(t, err, "values.yaml:3: two has no comment above it")
}
