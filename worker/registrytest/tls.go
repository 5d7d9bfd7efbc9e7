package registrytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateLife is how long the certificates are valid: longer than any test.
const certificateLife = 24 * time.Hour

// clockSkew dates certificates back, for machines whose clocks differ.
const clockSkew = time.Hour

// authority is a certificate authority and the one certificate it signed.
type authority struct {
	pem    []byte
	server tls.Certificate
	client tls.Certificate
}

func newAuthority(hosts []string) (*authority, error) {
	ca := template(1, "registrytest authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	sign := func(leaf *x509.Certificate, usage x509.ExtKeyUsage) (tls.Certificate, error) {
		leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return tls.Certificate{}, err
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
		return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, err
	}
	leaf := template(2, "registrytest")
	for _, host := range append([]string{"127.0.0.1", "localhost"}, hosts...) {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	made := &authority{pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})}
	if made.server, err = sign(leaf, x509.ExtKeyUsageServerAuth); err != nil {
		return nil, err
	}
	made.client, err = sign(template(3, "registrytest client"), x509.ExtKeyUsageClientAuth)
	return made, err
}

// WriteClient writes a certificate that WithClientCertificates takes, and its key.
func (r *Registry) WriteClient(certificate, key string) error {
	der, err := x509.MarshalPKCS8PrivateKey(r.tls.client.PrivateKey)
	if err != nil {
		return err
	}
	for path, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: r.tls.client.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("write a certificate for clients of %s: %w", r.Host(), err)
		}
	}
	return nil
}

func template(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(certificateLife),
	}
}

func (a *authority) serverConfig(clients bool) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{a.server}, MinVersion: tls.VersionTLS12}
	if clients {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(a.pem)
	}
	return config
}
