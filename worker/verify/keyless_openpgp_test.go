//go:build containers_image_openpgp

package verify_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// issuer is the certificate extension in which Fulcio states who has authenticated the signer.
var issuer = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}

// sigstore is a Fulcio and a Rekor.
type sigstore struct {
	ca       *x509.Certificate
	caKey    *ecdsa.PrivateKey
	rekor    *ecdsa.PrivateKey
	rekorPEM []byte
}

func newSigstore(t *testing.T) *sigstore {
	t.Helper()
	f := &sigstore{}
	var err error
	f.caKey, _, err = registrytest.NewSigningKey()
	require.NoError(t, err)
	f.rekor, f.rekorPEM, err = registrytest.NewSigningKey()
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fulcio"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &f.caKey.PublicKey, f.caKey)
	require.NoError(t, err)
	f.ca, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return f
}

func toPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// requirement returns a requirement of signatures of an identity.
func (f *sigstore) requirement(email, by string) string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf(`{"type":"sigstoreSigned","fulcio":{"caData":%q,"oidcIssuer":%q,"subjectEmail":%q},"rekorPublicKeyData":%q,"signedIdentity":{"type":"matchRepository"}}`,
		encode(toPEM(f.ca.Raw)), by, email, encode(f.rekorPEM))
}

// signKeyless signs a digest for an identity; Rekor records it at the given time.
func (f *sigstore) signKeyless(t *testing.T, s *site, digest, email, by string, recorded time.Time) registrytest.Signature {
	t.Helper()
	key, _, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	value, err := asn1.Marshal(by)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), EmailAddresses: []string{email}, NotBefore: time.Now().Add(-10 * time.Minute), NotAfter: time.Now().Add(-time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: issuer, Value: value}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, f.ca, &key.PublicKey, f.caKey)
	require.NoError(t, err)
	made := registrytest.Signature{Key: key, Digest: digest, Name: s.source().String()}
	payload, err := made.Payload()
	require.NoError(t, err)
	sum := sha256.Sum256(payload)
	signed, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	body, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]string{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}},
		"signature": map[string]any{"content": signed, "publicKey": map[string]any{"content": toPEM(der)}},
	}})
	require.NoError(t, err)
	entry, err := json.Marshal(map[string]any{"body": body, "integratedTime": recorded.Unix(), "logIndex": 7, "logID": "log"})
	require.NoError(t, err)
	sum = sha256.Sum256(entry)
	promise, err := ecdsa.SignASN1(rand.Reader, f.rekor, sum[:])
	require.NoError(t, err)
	record, err := json.Marshal(map[string]any{"SignedEntryTimestamp": promise, "Payload": json.RawMessage(entry)})
	require.NoError(t, err)
	made.Annotations = map[string]string{registrytest.AnnotationCertificate: string(toPEM(der)), registrytest.AnnotationRekor: string(record)}
	_, err = s.from.Sign(repository, made, base64.StdEncoding.EncodeToString(signed))
	require.NoError(t, err)
	return made
}

// TestKeyless: Fulcio's certificate proves who has signed, and Rekor that the certificate was valid
// then.
func TestKeyless(t *testing.T) {
	const email, by = "release@example.com", "https://accounts.example.com"
	valid := time.Now().Add(-5 * time.Minute)
	for name, test := range map[string]struct {
		email, by string
		recorded  time.Time
		another   func(*sigstore, *sigstore) // changes who is trusted
		why       string
	}{
		"signed":                  {email, by, valid, nil, ""},
		"by somebody else":        {"other@example.com", by, valid, nil, "Required email"},
		"of another issuer":       {email, "https://evil.example.com", valid, nil, "Unexpected Fulcio OIDC issuer"},
		"after it has expired":    {email, by, time.Now(), nil, "expired"},
		"certified elsewhere":     {email, by, valid, func(f, other *sigstore) { f.ca = other.ca }, "certificate signed by unknown authority"},
		"recorded somewhere else": {email, by, valid, func(f, other *sigstore) { f.rekorPEM = other.rekorPEM }, "Rekor SET"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			digest := push(t, s)
			f := newSigstore(t)
			f.signKeyless(t, s, digest, test.email, test.by, test.recorded)
			if test.another != nil {
				test.another(f, newSigstore(t))
			}
			s.trust(t, scoped(s.source().String(), f.requirement(email, by)))
			err := s.ask(t, "1", digest)
			if test.why == "" {
				require.NoError(t, err)
			} else {
				rejected(t, err, test.why)
			}
		})
	}
	t.Run("not recorded", func(t *testing.T) {
		s := newSite(t)
		digest := push(t, s)
		f := newSigstore(t)
		made := f.signKeyless(t, s, digest, email, by, valid)
		delete(made.Annotations, registrytest.AnnotationRekor)
		_, err := s.from.Sign(repository, made, "")
		require.NoError(t, err)
		s.trust(t, scoped(s.source().String(), f.requirement(email, by)))
		rejected(t, s.ask(t, "1", digest), "missing "+registrytest.AnnotationRekor+" annotation")
	})
}
