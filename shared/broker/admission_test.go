package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/redact"
)

func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// certify signs a certificate for 127.0.0.1, a server's and a client's; without a
// parent it is an authority. It returns both as PEM.
func certify(t *testing.T, parent *tls.Certificate) (tls.Certificate, []byte, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signer, by := any(key), c
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		signer = parent.PrivateKey
		by, err = x509.ParseCertificate(parent.Certificate[0])
		require.NoError(t, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), signer)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

func TestTLS(t *testing.T) {
	authority, authorityPEM, _ := certify(t, nil)
	own, _, _ := certify(t, &authority)
	_, clientPEM, clientKey := certify(t, &authority)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authorityPEM)
	s := brokertest.Start(t, func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert}
		o.TLSVerify, o.TLSTimeout = true, 5
	})
	_, strangerPEM, strangerKey := certify(t, nil)
	right := broker.Config{
		URL: s.URL(), Replicas: 1, CA: file(t, "ca.pem", authorityPEM),
		Cert: file(t, "cert.pem", clientPEM), Key: file(t, "key.pem", clientKey),
	}
	for _, scheme := range []string{"nats", "tls"} {
		c := right
		c.URL = strings.Replace(s.URL(), "nats", scheme, 1)
		brokertest.Open(t, c)
	}
	noCA, noCert, stranger := right, right, right
	noCA.CA = ""
	noCert.Cert, noCert.Key = "", ""
	stranger.Cert, stranger.Key = file(t, "cert.pem", strangerPEM), file(t, "key.pem", strangerKey)
	for _, c := range []broker.Config{noCA, noCert, stranger} {
		require.ErrorContains(t, fails(t, c), s.URL())
	}
}

func TestNKey(t *testing.T) {
	pair, other := user(t), user(t)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	s := brokertest.Start(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	seed := func(k nkeys.KeyPair) string {
		text, err := k.Seed()
		require.NoError(t, err)
		return file(t, "seed", text)
	}
	brokertest.Open(t, broker.Config{URL: s.URL(), Replicas: 1, NKey: seed(pair)})
	require.ErrorIs(t, fails(t, broker.Config{URL: s.URL(), NKey: seed(other)}), broker.ErrCredentials)
	text, err := pair.Seed()
	require.NoError(t, err)
	require.Equal(t, "seed xxxxx", redact.Text("seed "+string(text)))
}

func user(t *testing.T) nkeys.KeyPair {
	t.Helper()
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	return pair
}

// TestCreds: a server that trusts an operator accepts a credentials file of our account.
func TestCreds(t *testing.T) {
	public := func(pair nkeys.KeyPair, err error) (nkeys.KeyPair, string) {
		require.NoError(t, err)
		key, err := pair.PublicKey()
		require.NoError(t, err)
		return pair, key
	}
	operator, operatorKey := public(nkeys.CreateOperator())
	account, accountKey := public(nkeys.CreateAccount())
	_, systemKey := public(nkeys.CreateAccount())
	resolver := &server.MemAccResolver{}
	for _, key := range []string{accountKey, systemKey} {
		claims := jwt.NewAccountClaims(key)
		if key == accountKey {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := claims.Encode(operator)
		require.NoError(t, err)
		require.NoError(t, resolver.Store(key, token))
	}
	s := brokertest.Start(t, func(o *server.Options) {
		o.TrustedKeys, o.AccountResolver, o.SystemAccount = []string{operatorKey}, resolver, systemKey
	})
	var secrets []string
	creds := func(signer nkeys.KeyPair) string {
		pair, key := public(nkeys.CreateUser())
		token, err := jwt.NewUserClaims(key).Encode(signer)
		require.NoError(t, err)
		seed, err := pair.Seed()
		require.NoError(t, err)
		text, err := jwt.FormatUserConfig(token, seed)
		require.NoError(t, err)
		secrets = append(secrets, token, string(seed))
		return file(t, "user.creds", text)
	}
	brokertest.Open(t, broker.Config{URL: s.URL(), Replicas: 1, Creds: creds(account)})
	stranger, _ := public(nkeys.CreateAccount())
	require.ErrorIs(t, fails(t, broker.Config{URL: s.URL(), Creds: creds(stranger)}), broker.ErrCredentials)
	for _, secret := range secrets {
		require.Equal(t, "is xxxxx", redact.Text("is "+secret))
	}
}
