"""The web app, `t2l ui`: `service` does the work, `app` lays out the page with Gradio."""
