package cloud

import (
	"context"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecrpublic"
)

const (
	// publicECR is Amazon ECR Public, whose API is in one region only:
	// https://docs.aws.amazon.com/general/latest/gr/ecr-public.html
	publicECR       = "public.ecr.aws"
	publicECRRegion = "us-east-1"
)

// privateECR matches the registries of Amazon ECR with their region, in all partitions and with
// the names for FIPS and dual stack:
// https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html
var privateECR = regexp.MustCompile(`^\d{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.(amazonaws\.com(\.cn)?|on\.(aws|amazonwebservices\.com\.cn)|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)$`)

// errNoToken is returned if a cloud's answer has no valid token.
var errNoToken = errors.New("the answer has no usable token")

func isECR(registry string) bool { return privateECR.MatchString(registry) }

// loginECR gets a token for a registry, which is valid for 12 hours. With it, a role can also read
// registries of other accounts if their policies permit that.
func loginECR(ctx context.Context, registry string) (Login, error) {
	parts := privateECR.FindStringSubmatch(registry)
	options := []func(*config.LoadOptions) error{config.WithRegion(parts[2])}
	if parts[1] != "" {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return Login{}, err
	}
	answer, err := ecr.NewFromConfig(c).GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return Login{}, err
	}
	if len(answer.AuthorizationData) == 0 {
		return Login{}, errNoToken
	}
	data := answer.AuthorizationData[0]
	return awsLogin(data.AuthorizationToken, data.ExpiresAt)
}

// loginPublicECR gets a token for the public gallery, which allows more pulls with a login.
func loginPublicECR(ctx context.Context, _ string) (Login, error) {
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(publicECRRegion))
	if err != nil {
		return Login{}, err
	}
	answer, err := ecrpublic.NewFromConfig(c).GetAuthorizationToken(ctx, &ecrpublic.GetAuthorizationTokenInput{})
	if err != nil {
		return Login{}, err
	}
	if answer.AuthorizationData == nil {
		return Login{}, errNoToken
	}
	return awsLogin(answer.AuthorizationData.AuthorizationToken, answer.AuthorizationData.ExpiresAt)
}

// awsLogin parses a token, which is user:password in base64.
func awsLogin(token *string, expires *time.Time) (Login, error) {
	text, err := base64.StdEncoding.DecodeString(aws.ToString(token))
	user, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok || user == "" || password == "" || expires == nil {
		return Login{}, errNoToken
	}
	return Login{Username: user, Password: password, Expires: *expires}, nil
}
