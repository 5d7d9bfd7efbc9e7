package charttest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
	core "k8s.io/api/core/v1"
)

func TestMonitors(t *testing.T) {
	r := render(t, least, "metrics: {podMonitor: {enabled: true, labels: {release: prometheus}}}")
	pods := find[*monitoring.PodMonitor](t, r, "worker")
	require.Equal(t, "prometheus", pods.Labels["release"])
	require.Equal(t, *worker(t, r).Selector, pods.Spec.Selector)
	require.Equal(t, worker(t, r).Template.Spec.Containers[0].Ports[0].Name, *pods.Spec.PodMetricsEndpoints[0].Port)

	r = render(t, least, "metrics: {serviceMonitor: {enabled: true}}")
	services := find[*monitoring.ServiceMonitor](t, r, "worker")
	service := find[*core.Service](t, r, "worker")
	for key, value := range services.Spec.Selector.MatchLabels {
		require.Equal(t, value, service.Labels[key])
	}
	require.Equal(t, service.Spec.Ports[0].Name, services.Spec.Endpoints[0].Port)
}

var metricRow = regexp.MustCompile(`(?m)^\| (skopeo_worker_\w+) \| (\w+) \| ([a-z, ]*) ?\|`)

// metrics are the labels of each series that docs/metrics.md documents.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	require.NoError(t, err)
	series := map[string][]string{}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		labels := strings.FieldsFunc(row[3], func(r rune) bool { return r == ',' || r == ' ' })
		if row[2] == "histogram" {
			row[1], labels = row[1]+"_bucket", append(labels, "le")
		}
		series[row[1]] = labels
	}
	require.NotEmpty(t, series)
	return series
}

// checkQuery parses PromQL, and requires that its metrics and labels exist.
func checkQuery(t *testing.T, query string) {
	t.Helper()
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	require.NoError(t, err, query)
	selectors, known := 0, metrics(t)
	parser.Inspect(expression, func(n parser.Node, path []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		selectors++
		if v.Name == "" {
			// A pattern must match a documented metric.
			pattern := v.LabelMatchers[slices.IndexFunc(v.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == model.MetricNameLabel })]
			for name := range known {
				if pattern.Matches(name) {
					v.Name = name
				}
			}
		}
		labels, documented := known[v.Name]
		require.True(t, documented, "no metric %s in %s", v.Name, query)
		labels = append(labels, "namespace", "__name__")
		for _, m := range v.LabelMatchers {
			require.Contains(t, labels, m.Name, query)
		}
		for _, above := range path {
			if a, ok := above.(*parser.AggregateExpr); ok {
				require.Subset(t, labels, a.Grouping, query)
			}
		}
		return nil
	})
	require.Positive(t, selectors, query)
}

func TestAlerts(t *testing.T) {
	rule := find[*monitoring.PrometheusRule](t, render(t, least, "metrics: {rules: {enabled: true, alertLabels: {team: mirrors}}}"), "worker")
	names := map[string]bool{}
	for _, r := range rule.Spec.Groups[0].Rules {
		names[r.Alert] = true
		checkQuery(t, r.Expr.String())
		require.Contains(t, r.Expr.String(), `{namespace="mirrors"`, r.Alert)
		require.NotEmpty(t, r.Labels["severity"], r.Alert)
		require.Equal(t, "mirrors", r.Labels["team"], r.Alert)
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		for _, command := range regexp.MustCompile(`kubectl [^:]*`).FindAllString(r.Annotations["description"], -1) {
			require.True(t, strings.HasPrefix(command, "kubectl -n mirrors "), command)
		}
	}
	for _, name := range []string{"RunTooOld", "RunLost", "ImagesFailing", "ImmutableTagMoved", "RecordsUnreadable", "RegistryClosed", "BudgetExhausted", "ChunkOverdue", "BrokerDown", "Absent"} {
		require.True(t, names["SkopeoWorker"+name], name)
	}

	toZero := render(t, least, "metrics: {rules: {enabled: true}}\nworker: {keda: {enabled: true}}")
	for _, r := range find[*monitoring.PrometheusRule](t, toZero, "worker").Spec.Groups[0].Rules {
		require.NotEqual(t, "SkopeoWorkerAbsent", r.Alert, "with KEDA none is as it should be")
	}
}

type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr string }
}

func TestDashboard(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(chartDir, "dashboards", "skopeo-worker.json"))
	require.NoError(t, err)
	var dashboard struct {
		UID        string
		Panels     []panel
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	require.NoError(t, json.Unmarshal(file, &dashboard))
	ids, taken, queries := map[int]bool{}, map[[2]int]string{}, 0
	for _, p := range dashboard.Panels {
		require.False(t, ids[p.ID], p.Title)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Less(t, x, 24, p.Title)
				require.Empty(t, taken[[2]int{x, y}], "below %s", p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			queries++
			checkQuery(t, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	require.Greater(t, queries, 20)
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" {
			checkQuery(t, strings.TrimPrefix(strings.Split(v.Definition, ", ")[0], "label_values("))
		}
	}

	r := render(t, least, "metrics: {dashboard: {enabled: true, annotations: {folder: Mirrors}}}")
	shipped := find[*core.ConfigMap](t, r, "dashboard")
	require.Equal(t, "1", shipped.Labels["grafana_dashboard"])
	require.Equal(t, "Mirrors", shipped.Annotations["folder"])
	require.JSONEq(t, string(file), shipped.Data["skopeo-worker.json"])
}
