package charttest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/require"
)

// alert returns the query of an alert of the chart.
func alert(t *testing.T, name string) string {
	t.Helper()
	rule := find[*monitoring.PrometheusRule](t, render(t, least, "metrics: {rules: {enabled: true, maxAgeHours: 36}}"), "worker")
	for _, r := range rule.Spec.Groups[0].Rules {
		if r.Alert == "SkopeoWorker"+name {
			return strings.Join(strings.Fields(r.Expr.String()), " ")
		}
	}
	require.Fail(t, "no alert "+name)
	return ""
}

// TestAlertsFire evaluates alerts as Prometheus does, over nine days. Every day another
// pod exports the series, or none does.
func TestAlertsFire(t *testing.T) {
	type values map[string]string // of metrics and their labels; those without a value are not exported
	label := func(alert string) string {
		if alert == "BudgetExhausted" {
			return `registry="docker.io"`
		}
		return `mirror="default"`
	}
	today := func(day int) string { return fmt.Sprint(day * 86400) }
	for name, test := range map[string]struct {
		alert string
		day   func(day int) values
		fires map[string]string // when, and the value; empty: it does not fire
	}{
		"runs every day, and never a success": {
			alert: "RunTooOld",
			day:   func(day int) values { return values{"last_run_timestamp_seconds": today(day)} },
			fires: map[string]string{"30h": "", "40h": "144000", "8d": "691200"},
		},
		"a success every day": {
			alert: "RunTooOld",
			day: func(day int) values {
				return values{"last_run_timestamp_seconds": today(day), "last_success_timestamp_seconds": today(day)}
			},
			fires: map[string]string{"30h": "", "8d": ""},
		},
		"a success on the first day only": {
			alert: "RunTooOld",
			day: func(day int) values {
				return values{"last_run_timestamp_seconds": today(day), "last_success_timestamp_seconds": "3600"}
			},
			fires: map[string]string{"30h": "", "40h": "140400", "8d": "687600"},
		},
		"failures, and then no worker": {
			alert: "ImagesFailing",
			day: func(day int) values {
				if day > 0 {
					return nil
				}
				return values{"failed_images": "3"}
			},
			fires: map[string]string{"30m": "3", "40h": "3", "8d": ""},
		},
		"a spent budget, and chunks that wait for it": {
			alert: "BudgetExhausted",
			day: func(int) values {
				return values{"budget_free_pulls": "0", "registry_snoozed_chunks": "2"}
			},
			fires: map[string]string{"10h": "0", "8d": "0"},
		},
		"a spent budget, and no chunk that waits for it": {
			alert: "BudgetExhausted",
			day: func(int) values {
				return values{"budget_free_pulls": "0", "registry_snoozed_chunks": "0"}
			},
			fires: map[string]string{"10h": "", "8d": ""},
		},
		"failures that are gone when the next pod runs": {
			alert: "ImagesFailing",
			day: func(day int) values {
				if day == 0 {
					return values{"failed_images": "3"}
				}
				return values{"failed_images": "0"}
			},
			fires: map[string]string{"30m": "3", "25h": "", "8d": ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			const step, points = "10m", 6 * 24
			var script strings.Builder
			for day := range 9 {
				fmt.Fprintf(&script, "\nload %s\n", step)
				for metric, value := range test.day(day) {
					fmt.Fprintf(&script, "  skopeo_worker_%s{namespace=\"mirrors\",%s,pod=\"%d\"} ", metric, label(test.alert), day)
					if day > 0 {
						fmt.Fprintf(&script, "_x%d ", day*points)
					}
					fmt.Fprintf(&script, "%s+0x%d stale\n", value, points-2)
				}
			}
			for when, value := range test.fires {
				fmt.Fprintf(&script, "\neval instant at %s %s\n", when, alert(t, test.alert))
				if value != "" {
					fmt.Fprintf(&script, "  {namespace=\"mirrors\",%s} %s\n", label(test.alert), value)
				}
			}
			// Points are further apart than Prometheus' five minutes.
			const lookback = 11 * time.Minute
			promqltest.RunTest(t, script.String(), promqltest.NewTestEngine(t, false, lookback, promqltest.DefaultMaxSamplesPerQuery))
		})
	}
}
