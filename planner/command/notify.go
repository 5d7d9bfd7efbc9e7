package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/redact"
)

func notifyTestCommand() *cobra.Command {
	var s settings
	reads := []any{&s.notify, &s.log}
	return &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "notify-test",
		Short: "Send a test message to each of NOTIFY_URLS",
		Long:  "Send a test message to each of NOTIFY_URLS, and show the results. The exit code is 1 if\none could not be sent.",
		Args:  atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(reads...); err != nil {
				return err
			}
			if s.notify.URLs == "" {
				return fmt.Errorf("%w: NOTIFY_URLS is not set", errUsage)
			}
			var failed error
			s.notify.SendTest(func(service string, err error) {
				if err == nil {
					_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: sent\n", service)
					return
				}
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", service, display.Printable(redact.Line(err.Error())))
				failed = errFailed
			})
			return failed
		},
	}
}
