package charttest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/require"
)

// private is a registry without a budget, like those of a site: it has every series of a registry
// except those of budgets. The other registry has only those.
const private = `
load 1m
  skopeo_worker_registry_closed{namespace="mirrors",registry="private.example.com"} 0x60
  skopeo_worker_registry_requests_total{namespace="mirrors",registry="private.example.com",kind="pull",code="200"} 0+60x60
  skopeo_worker_images_total{namespace="mirrors",registry="private.example.com",outcome="copied"} 0+60x60
  skopeo_worker_pulls_total{namespace="mirrors",registry="private.example.com"} 0+60x60
  skopeo_worker_copied_bytes_total{namespace="mirrors",registry="private.example.com"} 0+60x60
  skopeo_worker_copy_duration_seconds_bucket{namespace="mirrors",registry="private.example.com",le="1"} 0+60x60
  skopeo_worker_copy_duration_seconds_bucket{namespace="mirrors",registry="private.example.com",le="+Inf"} 0+60x60
  skopeo_worker_budget_limit_pulls{namespace="mirrors",registry="docker.io"} 100x60
`

// TestDashboardShowsRegistriesWithoutABudget evaluates the registry panels as Prometheus does, with
// Grafana's values of the variables. All panels, except those about budgets, show a registry
// without a budget, whether that or all registries are selected.
func TestDashboardShowsRegistriesWithoutABudget(t *testing.T) {
	storage := promqltest.LoadedStorage(t, private)
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	evaluate := func(query string) (series []labels.Labels) {
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, query, time.Unix(3600, 0))
		require.NoError(t, err, query)
		defer q.Close()
		result, err := q.Exec(t.Context()).Vector()
		require.NoError(t, err, query)
		for _, sample := range result {
			series = append(series, sample.Metric)
		}
		return series
	}

	file, err := os.ReadFile(filepath.Join(chartDir, "dashboards", "skopeo-worker.json"))
	require.NoError(t, err)
	var dashboard struct {
		Panels     []panel
		Templating struct {
			List []struct{ Name, Definition, AllValue string }
		}
	}
	require.NoError(t, json.Unmarshal(file, &dashboard))

	// Grafana lists the values of a label. If there is no value for all of them, it joins them.
	values := map[string]string{"namespace": "mirrors", "mirror": ".*"}
	var offered []string
	for _, v := range dashboard.Templating.List {
		if v.Name != "registry" {
			continue
		}
		m := regexp.MustCompile(`^label_values\((.*), registry\)$`).FindStringSubmatch(v.Definition)
		require.NotNil(t, m, v.Definition)
		for _, series := range evaluate("group by (registry) (" + strings.ReplaceAll(m[1], "$namespace", "mirrors") + ")") {
			offered = append(offered, series.Get("registry"))
		}
		values["registry"] = v.AllValue
		if v.AllValue == "" {
			values["registry"] = strings.Join(offered, "|")
		}
	}
	require.Contains(t, offered, "private.example.com", "it can be chosen")

	for _, chosen := range []string{values["registry"], "private.example.com"} {
		shown := 0
		for _, p := range dashboard.Panels {
			for _, target := range p.Targets {
				if !strings.Contains(target.Expr, "$registry") || strings.Contains(target.Expr, "skopeo_worker_budget_") || strings.Contains(target.Expr, "next_slot") {
					continue
				}
				query := strings.NewReplacer("$registry", chosen, "$namespace", values["namespace"], "$mirror", values["mirror"], "$__rate_interval", "5m").Replace(target.Expr)
				require.NotEmpty(t, evaluate(query), "%s: %s", p.Title, query)
				shown++
			}
		}
		require.GreaterOrEqual(t, shown, 8, "six panels, one of them with three lines")
	}
}
