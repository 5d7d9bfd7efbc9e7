package service_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/worker/service"
)

func TestHostsMayHaveRates(t *testing.T) {
	r := service.Registries{QuayHosts: []string{"quay.example.com", " Quay2.example.com:8443 = quay.io", "quay3.example.com=api:10/1s+20;tags:5/1s"}}
	require.Empty(t, r.Validate())
	require.Equal(t, []string{"quay.example.com", "Quay2.example.com:8443", "quay3.example.com"}, r.QuayHosts)
	require.Len(t, r.Rates, 2)
	require.Contains(t, r.Rates, "quay2.example.com:8443")
	require.Contains(t, r.Rates, "quay3.example.com")

	for _, bad := range []string{"quay.example.com=", "quay.example.com=fast", "quay.example.com=api:1/s", "https://quay.example.com=quay.io"} {
		r := service.Registries{QuayHosts: []string{bad}}
		problems := r.Validate()
		require.Len(t, problems, 1, bad)
		require.ErrorContains(t, problems[0], "QUAY_HOSTS", bad)
	}
	harbor := service.Registries{HarborHosts: []string{" Harbor.example.com=api:10/1s+20", "b.example.com"}}
	require.Empty(t, harbor.Validate())
	require.Equal(t, []string{"Harbor.example.com", "b.example.com"}, harbor.HarborHosts)
	require.Contains(t, harbor.Rates, "harbor.example.com")
	require.ErrorContains(t, (&service.Registries{HarborHosts: []string{"a.example.com/project"}}).Validate()[0], "HARBOR_HOSTS")
	require.ErrorIs(t, (&service.Registries{QuayHosts: []string{"a.example.com=fast"}}).Validate()[0], budget.ErrRates)
}

// TestConcurrencyOfTheEngines: the default of WORKER_CONCURRENCY is higher for the builtin engine.
func TestConcurrencyOfTheEngines(t *testing.T) {
	for _, c := range []struct {
		engine, chosen string
		want           int
	}{
		{service.EngineSkopeo, "", 8}, {service.EngineBuiltin, "", 16},
		{service.EngineSkopeo, "3", 3}, {service.EngineBuiltin, "3", 3},
	} {
		t.Setenv("COPY_ENGINE", c.engine)
		t.Setenv("WORKER_CONCURRENCY", c.chosen)
		var found service.Config
		require.NoError(t, config.Load(&found))
		require.Equal(t, c.want, found.Concurrency, c)
	}
}
