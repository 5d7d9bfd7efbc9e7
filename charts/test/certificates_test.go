package charttest

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// hosts are the names in the URLs by which clients and servers connect to a server.
func hosts(t *testing.T, r *rendering) []string {
	t.Helper()
	address, err := url.Parse(env(worker(t, r).Template.Spec.Containers[0])["NATS_URL"])
	require.NoError(t, err)
	all := []string{address.Hostname()}
	for name, value := range env(find[*apps.StatefulSet](t, r, "nats").Spec.Template.Spec.Containers[0]) {
		if strings.HasPrefix(name, "ROUTE_") {
			_, route, _ := strings.Cut(strings.Trim(value, `"`), "@")
			host, _, _ := strings.Cut(route, ":")
			all = append(all, host)
		}
	}
	return all
}

const threeEncrypted = "nats: {server: {replicas: 3, tls: {enabled: true}}}"

// TestCertificateIsGenerated: Helm generates one certificate with all names of the servers, for
// them as servers and as clients of each other.
func TestCertificateIsGenerated(t *testing.T) {
	r := renderWith(t, options{cluster: cluster{}}, least, threeEncrypted)
	secret := find[*core.Secret](t, r, "nats-server-tls")
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(secret.Data["ca.crt"]))
	require.Len(t, hosts(t, r), 4)
	for _, host := range append(hosts(t, r), "localhost", "127.0.0.1", "mirror-skopeo-worker-nats") {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
			require.NoError(t, err, host)
		}
	}
	require.Greater(t, time.Until(pair.Leaf.NotAfter), 9*365*24*time.Hour)

	upgraded := renderWith(t, options{upgrade: true, cluster: cluster{objects: []runtime.Object{secret}}}, least, threeEncrypted)
	require.Equal(t, secret.Data, find[*core.Secret](t, upgraded, "nats-server-tls").Data)
	require.False(t, has[*certmanager.Certificate](r))
}

// TestCertificateOfCertManager: pods mount the Secret that cert-manager makes.
func TestCertificateOfCertManager(t *testing.T) {
	r := render(t, least, "nats: {server: {replicas: 3, tls: {enabled: true, certManager: {issuerRef: {name: internal, kind: ClusterIssuer}, duration: 2160h, renewBefore: 720h}}}}")
	certificate := find[*certmanager.Certificate](t, r, "nats-server-tls").Spec
	require.Equal(t, "internal", certificate.IssuerRef.Name)
	require.Equal(t, "ClusterIssuer", certificate.IssuerRef.Kind)
	require.Equal(t, 90*24*time.Hour, certificate.Duration.Duration)
	require.Subset(t, certificate.DNSNames, hosts(t, r))
	require.Contains(t, certificate.Usages, certmanager.UsageServerAuth)
	require.Contains(t, certificate.Usages, certmanager.UsageClientAuth)
	for _, object := range r.objects {
		if secret, ok := object.(*core.Secret); ok {
			require.NotEqual(t, certificate.SecretName, secret.Name, "cert-manager's")
		}
	}
	requireCertificate(t, r, certificate.SecretName)
}

// TestCertificateOfASecret: if a Secret is given, no certificate is made.
func TestCertificateOfASecret(t *testing.T) {
	r := render(t, least, "nats: {server: {tls: {enabled: true, existingSecret: mine, keys: {cert: server.pem, key: server.key, ca: root.pem}}}}")
	requireCertificate(t, r, "mine")
	require.Contains(t, natsConf(t, r), "cert_file: /etc/nats-tls/server.pem\n")
	require.Equal(t, "/etc/skopeo-worker/nats-tls/root.pem", env(worker(t, r).Template.Spec.Containers[0])["NATS_CA"])

	// Clients may trust a CA of their own, or the public ones.
	own := env(worker(t, render(t, least, "nats: {tls: {ca: text}, server: {tls: {enabled: true, existingSecret: mine}}}")).Template.Spec.Containers[0])
	require.Equal(t, "/etc/skopeo-worker/nats-tls/ca.crt", own["NATS_CA"])
	public := env(worker(t, render(t, least, "nats: {server: {tls: {enabled: true, existingSecret: mine, keys: {ca: ''}}}}")).Template.Spec.Containers[0])
	require.NotContains(t, public, "NATS_CA")
	require.Equal(t, "tls://mirror-skopeo-worker-nats.mirrors.svc:4222", public["NATS_URL"])
}

// requireCertificate requires that the servers mount a Secret, and that all clients get its CA, but
// neither the certificate nor its key.
func requireCertificate(t *testing.T, r *rendering, secret string) {
	t.Helper()
	for _, p := range pods(r) {
		found := 0
		for _, v := range p.spec.Volumes {
			if v.Secret == nil || v.Secret.SecretName != secret {
				continue
			}
			found++
			if p.owner == fullName+"-nats" {
				require.Empty(t, v.Secret.Items)
				continue
			}
			require.Len(t, v.Secret.Items, 1, p.owner)
			require.Equal(t, v.Secret.Items[0].Path, path.Base(env(p.spec.Containers[0])["NATS_CA"]), p.owner)
		}
		require.Equal(t, 1, found, p.owner)
	}
}
