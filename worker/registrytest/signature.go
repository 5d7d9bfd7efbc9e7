package registrytest

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Signature is one that Sign attaches to an image, as cosign does.
type Signature struct {
	Key    *ecdsa.PrivateKey
	Digest string // that is signed
	Name   string // the identity that is claimed: HOST/REPOSITORY[:TAG]
	Of     string // the digest to which it is attached; empty: Digest
	// Annotations are added to those of the signature: a certificate, a record of Rekor.
	Annotations map[string]string
}

// Annotations of cosign's signatures.
const (
	AnnotationSignature   = "dev.cosignproject.cosign/signature"
	AnnotationCertificate = "dev.sigstore.cosign/certificate"
	AnnotationChain       = "dev.sigstore.cosign/chain"
	AnnotationRekor       = "dev.sigstore.cosign/bundle"
)

// Payload returns the signed text.
func (s Signature) Payload() ([]byte, error) {
	return json.Marshal(map[string]any{"critical": map[string]any{
		"identity": map[string]string{"docker-reference": s.Name},
		"image":    map[string]string{"docker-manifest-digest": s.Digest},
		"type":     "cosign container image signature",
	}, "optional": nil})
}

// Sign attaches a signature to an image of the repository, under SignatureTag, in place of any
// that was there, and returns the digest of its manifest. signed, base64, is the signature
// itself; if empty, Sign makes it with the key.
func (r *Registry) Sign(repository string, s Signature, signed string) (string, error) {
	payload, err := s.Payload()
	if err != nil {
		return "", err
	}
	if signed == "" {
		sum := sha256.Sum256(payload)
		made, err := ecdsa.SignASN1(rand.Reader, s.Key, sum[:])
		if err != nil {
			return "", err
		}
		signed = base64.StdEncoding.EncodeToString(made)
	}
	layer := describe(mediaTypeCosign, payload)
	layer.Annotations = map[string]string{AnnotationSignature: signed}
	maps.Copy(layer.Annotations, s.Annotations)
	manifest, err := r.pushJSON(repository, SignatureTag(cmp.Or(s.Of, s.Digest)), types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: describe(types.OCIConfigJSON, emptyBlob), Layers: []v1.Descriptor{layer},
	}, emptyBlob, payload)
	return manifest.Digest.String(), err
}

// NewSigningKey returns a key, and its public half as PEM.
func NewSigningKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
}
